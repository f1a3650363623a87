"""Which tier a test belongs to, read off its code: does it, a fixture or a helper of its own start a process or server?

`service`: a real PostgreSQL, S3 or MLflow server. `process`: other processes. `slow`: files whose tests together take
more than some seconds in this process. What has none of these marks is `make test-fast`, which takes two minutes: where
a file makes it longer, it gets the mark.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from tests.support.databases import SQLITE

SERVICES = frozenset({"running_postgresql", "running_mlflow", "running_seaweedfs"})
PROCESSES = frozenset({"subprocess", "multiprocessing", "fork"})
OURS = ("tests", "devtools")
# What code here does not show: processes that the product starts, and models that are built and run in this one. The
# process that renders chat templates counts in its own test alone: it is one for all tests, and busy for milliseconds.
BY_PATH = {
    "tests/builders/checkpoint/test_adapter.py": "slow",
    "tests/builders/checkpoint/test_adapter_bundles.py": "slow",
    "tests/builders/checkpoint/test_adapter_refused.py": "slow",
    "tests/builders/checkpoint/test_shards.py": "slow",
    "tests/builders/coreml/test_families.py": "slow",
    "tests/builders/coreml/test_package.py": "slow",
    "tests/builders/coreml/test_parity.py": "slow",
    "tests/builders/coreml/test_sizes.py": "slow",
    "tests/builders/devices/test_device_farm.py": "slow",
    "tests/builders/devices/test_test_lab.py": "slow",
    "tests/builders/gguf/test_convert.py": "slow",
    "tests/builders/gguf/test_ranks.py": "slow",
    "tests/builders/gguf/test_sizes.py": "slow",
    "tests/builders/gguf/test_tokenizer.py": "slow",
    "tests/builders/matrix/cluster/test_coordinator.py": "slow",
    "tests/builders/onnx/test_convert.py": "slow",
    "tests/builders/onnx/test_families.py": "slow",
    "tests/builders/onnx/test_parity.py": "process",
    "tests/builders/onnx/test_sizes.py": "slow",
    "tests/builders/optimum_export/test_environment.py": "process",
    "tests/builders/optimum_export/test_export.py": "process",
    "tests/builders/oracle/test_adapter.py": "slow",
    "tests/builders/oracle/test_excerpt.py": "slow",
    "tests/builders/oracle/test_mutations.py": "slow",
    "tests/builders/oracle/test_oracle.py": "slow",
    "tests/builders/runtime/test_generation.py": "slow",
    "tests/builders/runtime/test_gguf_session.py": "slow",
    "tests/builders/runtime/test_isolation.py": "process",
    "tests/builders/templates/test_process.py": "process",
    "tests/builders/test_accuracy.py": "slow",
    "tests/builders/test_build.py": "slow",
    "tests/builders/test_build_each.py": "slow",
    "tests/builders/test_choose_types.py": "slow",
    "tests/builders/test_chunks.py": "slow",
    "tests/builders/test_phi4.py": "slow",
    "tests/builders/test_relayout.py": "slow",
    "tests/builders/test_release.py": "slow",
    "tests/builders/test_requirements.py": "slow",
    "tests/builders/test_sizes.py": "slow",
    "tests/builders/test_transformers_5.py": "slow",
    "tests/builders/test_zoo.py": "slow",
    "tests/builders/tokenizer/test_phi3_vocabulary.py": "slow",
    "tests/builders/tokenizer/test_tiktoken.py": "slow",
    "tests/builders/tokenizer/test_transformers_parity.py": "slow",
    "tests/builders/validation/behaviour/test_degeneration.py": "slow",
    "tests/builders/validation/behaviour/test_edges.py": "slow",
    "tests/builders/validation/behaviour/test_mutants.py": "slow",
    "tests/builders/validation/behaviour/test_suite.py": "process",
    "tests/builders/validation/tasks/test_harness.py": "slow",
    "tests/builders/validation/test_validate.py": "process",
    "tests/clients/test_plain_bundle.py": "slow",
    "tests/clients/test_plain_client.py": "slow",
    "tests/clients/test_plain_trust.py": "slow",
    "tests/devtools/test_real_model.py": "slow",
    "tests/examples/test_examples.py": "slow",
    "tests/fuzz/test_fuzz.py": "slow",
    "tests/phipack/test_adapters.py": "slow",
    "tests/phipack/test_api.py": "slow",
    "tests/phipack/test_budget.py": "slow",
    "tests/phipack/test_budget_cells.py": "slow",
    "tests/phipack/test_channels.py": "slow",
    "tests/phipack/test_cluster.py": "slow",
    "tests/phipack/test_completion.py": "slow",
    "tests/phipack/test_doctor.py": "slow",
    "tests/phipack/test_evidence_import.py": "slow",
    "tests/phipack/test_json.py": "slow",
    "tests/phipack/test_matrix.py": "process",
    "tests/phipack/test_places.py": "slow",
    "tests/phipack/test_road.py": "process",
    "tests/phipack/test_strict_project.py": "slow",
    "tests/phipack/test_waiting.py": "slow",
    "tests/registry/catalog/test_http_service.py": "slow",
    "tests/registry/diff/test_compare.py": "slow",
    "tests/registry/diff/test_contents.py": "slow",
    "tests/registry/ledger/test_lease.py": "slow",
    "tests/registry/ledger/test_ledger.py": "slow",
    "tests/registry/ledger/test_readers.py": "slow",
    "tests/registry/ledger/test_relocation.py": "slow",
    "tests/registry/ledger/test_version_search.py": "slow",
    "tests/registry/store/test_actions.py": "slow",
    "tests/registry/store/test_stores.py": "slow",
    "tests/registry/test_network.py": "slow",
    "tests/registry/test_older_apps.py": "slow",
    "tests/registry/test_one_release.py": "slow",
    "tests/registry/test_promotion.py": "slow",
    "tests/registry/test_publication.py": "slow",
    "tests/registry/test_publication_attacks.py": "slow",
    "tests/registry/test_publication_keys.py": "slow",
    "tests/registry/test_renamed.py": "slow",
    "tests/registry/test_roles.py": "slow",
    "tests/registry/test_rollback.py": "slow",
    "tests/registry/transfer/test_delta_download.py": "slow",
    "tests/registry/transfer/test_download.py": "slow",
    "tests/registry/transfer/test_download_progress.py": "slow",
    "tests/registry/transfer/test_pace.py": "slow",
    "tests/registry/transfer/test_resumed_download.py": "slow",
    "tests/targets/test_toml_lines.py": "slow",
    "tests/targets/test_written_json.py": "slow",
}


def tiers_of(item: pytest.Function) -> set[str]:
    """Return the marks that a collected test gets."""
    path = item.nodeid.partition("::")[0]
    fixtures = [definitions[-1].func for definitions in item._fixtureinfo.name2fixturedefs.values()]
    names = frozenset().union(*map(_names_in, (item.function, *fixtures)))
    tiers = {BY_PATH[path]} if path in BY_PATH else set()
    if names & SERVICES or _databases_of(item) != SQLITE:
        tiers.add("service")
    if names & PROCESSES:
        tiers.add("process")
    return tiers


@cache
def _names_in(function: Callable[..., Any]) -> frozenset[str]:
    """Return the same for a test or a fixture, once: many tests have the same."""
    return frozenset(names_in(function))


def names_in(function: Callable[..., Any], seen: set[types.CodeType] | None = None) -> Iterator[str]:
    """Yield the global names that a function uses, and those that functions of the tests which it calls use."""
    seen = set() if seen is None else seen
    plain = getattr(function, "__wrapped__", function)
    for part in _parts(getattr(plain, "__code__", None)):
        if part in seen:
            continue
        seen.add(part)
        for name in part.co_names:
            yield name
            used = plain.__globals__.get(name)
            if isinstance(used, type) and used.__module__.partition(".")[0] in OURS:
                for method in vars(used).values():
                    yield from names_in(method, seen)
            elif callable(used) and getattr(used, "__module__", "").partition(".")[0] in OURS:
                yield from names_in(used, seen)


def _parts(code: types.CodeType | None) -> Iterator[types.CodeType]:
    """Yield a function's code and that of the functions within it."""
    if code is not None:
        yield code
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                yield from _parts(constant)


def _databases_of(item: pytest.Function) -> str:
    """Return the kind of database that a test is parametrized with; SQLite where it has none."""
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("databases", SQLITE)) if callspec else SQLITE
