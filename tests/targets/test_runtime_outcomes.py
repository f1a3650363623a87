"""The table of runtimes against what older versions did: `python -m tests.support.runtime_matrix` recorded it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phipack.runtime_reference import page
from targets.runtimes.table import load_table, requires
from targets.runtimes.version import RuntimeVersion

RECORD = json.loads((Path(__file__).parent / "runtime_outcomes.json").read_text("utf-8"))
TRIED = [(runtime, name) for runtime, cases in RECORD["runtimes"].items() for name in cases]
OS = "Linux"  # where it was recorded
# Versions that the table forbids although the recorded run worked: why.
FORBIDDEN_ALL_THE_SAME = {
    ("bundle-sparse-onnx-fp16", "1.22.0"): "two other runs ended in damaged memory and in NaN, as 1.22.1 does",
}


def case(runtime: str, name: str) -> Any:
    return RECORD["runtimes"][runtime][name]


@pytest.mark.parametrize(("runtime", "name"), TRIED, ids=[f"{runtime} {name}" for runtime, name in TRIED])
def test_what_the_table_allows_worked_and_what_it_forbids_did_not(runtime: str, name: str) -> None:
    tried = case(runtime, name)
    (need,) = requires(tried["features"]).runtimes
    assert need.runtime == runtime
    allowed = {version: need.allows(RuntimeVersion(version), OS) for version in tried["outcomes"]}
    worked = {version: outcome == "works" for version, outcome in tried["outcomes"].items()}
    assert allowed == worked | {version: False for case, version in FORBIDDEN_ALL_THE_SAME if case == name}


def test_every_row_that_was_tried_is_in_the_record_and_every_version_that_is_tested_too() -> None:
    tried = {feature for cases in RECORD["runtimes"].values() for one in cases.values() for feature in one["features"]}
    said = {row.feature for row in load_table().rows if row.source.startswith("tried: ")}
    assert said <= tried
    for runtime, cases in RECORD["runtimes"].items():
        assert all(load_table().tested[runtime] in one["outcomes"] for one in cases.values())


def test_outcomes_of_every_kind_were_seen() -> None:
    """A record of successes alone would hold the table to nothing."""
    seen = {
        outcome
        for cases in RECORD["runtimes"].values()
        for one in cases.values()
        for outcome in one["outcomes"].values()
    }
    assert seen == {"works", "differs", "fails", "crashes"}


def test_the_page_is_the_table_s() -> None:
    assert (Path(__file__).parents[2] / "docs" / "runtimes.md").read_text("utf-8") == page(), "run make docs"
