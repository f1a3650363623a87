"""Records in the builders' terms: what another machine says counts for what it names, and for nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builders.matrix.records import (
    CheckpointFacts,
    Effort,
    built_bundle,
    record_build,
    record_checkpoint,
    record_evidence,
    recorded_checkpoint,
    recorded_evidence,
)
from devtools.bundles import CHECKPOINT, make_bundle, make_evidence
from registry.bundle.folder import Bundle
from registry.bundle.manifest import AdapterEntry
from registry.store.folder import FolderStore
from targets.architecture import Architecture
from targets.config_json import read_architecture
from targets.errors import BuildError
from tests.support.real_configs import REAL_CONFIGS

KEY = "0123456789abcdef" * 2
EFFORT = Effort(2.0, 4.0)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def stored(store: FolderStore, folder: Path, weights: bytes) -> Bundle:
    bundle = make_bundle(folder, {"model.gguf": weights})
    store.add_bundle(bundle)
    return bundle


def test_the_same_bytes_twice_are_one_build(store: FolderStore, tmp_path: Path) -> None:
    bundle = stored(store, tmp_path / "a", b"a")
    for _ in range(2):
        record_build(store, KEY, bundle.manifest, EFFORT)
    assert built_bundle(store, KEY) == bundle.manifest


def test_other_bytes_from_the_same_inputs_are_an_error_that_names_both(store: FolderStore, tmp_path: Path) -> None:
    first, second = (stored(store, tmp_path / name, name.encode()) for name in "ab")
    record_build(store, KEY, first.manifest, EFFORT)
    with pytest.raises(BuildError, match="from the same inputs differ") as error:
        record_build(store, KEY, second.manifest, EFFORT)
    assert first.digest in error.value.problem
    assert second.digest in error.value.problem
    assert f"actions/build/{KEY}.json" in error.value.fix
    assert built_bundle(store, KEY) == first.manifest


def test_the_first_measurement_counts(store: FolderStore, tmp_path: Path) -> None:
    bundle = stored(store, tmp_path / "a", b"a")
    one, two = make_evidence(bundle), make_evidence(bundle, kl_mean=0.02)
    assert record_evidence(store, KEY, bundle.manifest, one, EFFORT) == one
    assert record_evidence(store, KEY, bundle.manifest, two, EFFORT) == one
    assert recorded_evidence(store, KEY, bundle.manifest) == one


@pytest.mark.parametrize("changed", ["bundle", "checkpoint", "figures"])
def test_figures_of_something_else_count_as_none(store: FolderStore, tmp_path: Path, changed: str) -> None:
    bundle, other = (stored(store, tmp_path / name, name.encode()) for name in "ab")
    record_evidence(store, KEY, bundle.manifest, make_evidence(bundle), EFFORT)
    assert recorded_evidence(store, KEY, other.manifest) is None  # it was built again, with other bytes
    path = store.root / "actions" / "validate" / f"{KEY}.json"
    content = json.loads(path.read_bytes())
    content["content"][changed] = {"figures": {"kl_mean": 0}}.get(changed, "sha256:" + "0" * 64)
    path.write_text(json.dumps(content), "utf-8")
    assert recorded_evidence(store, KEY, bundle.manifest) is None


def test_figures_of_a_bundle_that_was_replaced_are_replaced(store: FolderStore, tmp_path: Path) -> None:
    """Its build was recorded again, with other bytes; both bundles are whole."""
    before, now = (stored(store, tmp_path / name, name.encode()) for name in "ab")
    record_evidence(store, KEY, before.manifest, make_evidence(before), EFFORT)
    record_evidence(store, KEY, now.manifest, make_evidence(now), EFFORT)
    assert recorded_evidence(store, KEY, now.manifest) == make_evidence(now)


@pytest.mark.parametrize("name", sorted(REAL_CONFIGS))
def test_a_checkpoint_is_planned_with_elsewhere(store: FolderStore, name: str) -> None:
    architecture: Architecture = read_architecture(REAL_CONFIGS[name])
    merged = AdapterEntry(base="sha256:" + "1" * 64, adapter="sha256:" + "2" * 64)
    for facts in (
        CheckpointFacts(architecture, CHECKPOINT, None),
        CheckpointFacts(replace(architecture, vocabulary_size=7), "sha256:" + "3" * 64, merged),
    ):
        assert recorded_checkpoint(store, facts.digest) is None
        record_checkpoint(store, facts)
        record_checkpoint(store, facts)
        assert recorded_checkpoint(store, facts.digest) == facts


def test_a_checkpoints_record_under_a_name_that_begins_alike_counts_as_none(store: FolderStore) -> None:
    architecture = read_architecture(next(iter(REAL_CONFIGS.values())))
    record_checkpoint(store, CheckpointFacts(architecture, "sha256:" + "c" * 64, None))
    assert recorded_checkpoint(store, "sha256:" + "c" * 63 + "d") is None
