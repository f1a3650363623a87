"""Cells with a budget on the command line: planned, refused, registered and listed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.bundle.manifest import BudgetEntry, MatrixEntry
from tests.support.command_line import InProcess, write_project
from tests.support.registrations import register_cells

CELL = """
[[cells]]
name = "{name}"
target = "{target}"
recipe = "gguf-q4_0"
{asked}
"""


@pytest.fixture
def planned(
    command: InProcess, tmp_path: Path, tiny_folder: Path, migrated_database: Path
) -> Callable[..., tuple[str, dict[str, Any]]]:
    """Plan cells with the budgets that are given by name, each of a Galaxy S24; return the text and the JSON."""

    def plan(what: str = "plan", expect: int = 0, target: str = "galaxy-s24", **asked: str) -> tuple[str, Any]:
        folder = write_project(tmp_path / "project", tiny_folder, migrated_database)
        project = (folder / "phipack.toml").read_text("utf-8").partition("[[cells]]")[0]
        project += "".join(CELL.format(name=name, target=target, asked=one) for name, one in asked.items())
        (folder / "phipack.toml").write_text(project, "utf-8")
        words = (*what.split(), "--project", str(folder / "phipack.toml"))
        text = command(*words, expect=expect).stdout
        document = command(*words, "--json", expect=expect).document
        shutil.rmtree(folder)
        return text, document.get("result")

    return plan


def test_a_plan_shows_budgets_jobs_and_the_types_that_are_left_out(
    planned: Callable[..., tuple[str, dict[str, Any]]],
) -> None:
    text, plan = planned(small="bits = 5", large='size = { at_most = "120kB" }', fitted='size = "fit"', none="")
    assert [cell["budget"] for cell in plan["cells"][:2]] == ["5 bits", "at most 120000 B"]
    fitted = plan["cells"][2]["budget"]
    assert fitted.startswith("at most ")
    assert plan["cells"][3]["budget"] is None
    builds = [job for job in plan["jobs"] if job["kind"] == "build"]
    assert [job["cells"] for job in builds] == [["small"], ["large"], ["fitted"], ["none"]]
    assert [job["budget"] for job in builds] == ["5 bits", "at most 120000 B", fitted, None]
    assert builds[0]["candidates"] == ["Q4_0", "IQ4_NL", "Q4_K", "Q5_K", "Q6_K", "Q8_0"]
    assert builds[3]["candidates"] == []
    assert builds[1]["name"].startswith("build-gguf-q4_0-light-120000B-512-")
    assert (
        "small: types are chosen among Q4_0, IQ4_NL, Q4_K, Q5_K, Q6_K, Q8_0; llama.cpp has no fast kernels for Q3_K, "
        "IQ4_XS, Q5_0, Q5_1 on galaxy-s24\n" in text
    )
    assert "none: types" not in text


def test_where_all_types_are_fast_none_is_left_out(planned: Callable[..., tuple[str, dict[str, Any]]]) -> None:
    text, plan = planned(target="iphone-15", small="bits = 5")
    assert plan["cells"][0]["candidates"] == plan["jobs"][0]["candidates"] == []
    assert "types are chosen among" not in text


def test_a_dry_run_judges_what_the_budget_allows(planned: Callable[..., tuple[str, dict[str, Any]]]) -> None:
    text, report = planned("release --dry-run", large='size = { at_most = "120kB" }')
    assert "gguf-q4_0, light, at most 120 kB" in text
    (cell,) = report["cells"]
    assert cell["size_bytes"] == cell["figures"]["artifact_bytes"]["value"] == 120_000
    assert cell["figures"]["artifact_bytes"]["on"] == "all files of the bundle but manifest.json, at most"
    text, _ = planned(
        "release --dry-run", 3, large='size = { at_most = "120kB" }\ngates.artifact_bytes = { at_most = 1e5 }'
    )
    assert "artifact_bytes is 1.2e+05, must be <= 100000" in text


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ('size = { at_most = "1kB" }', "with a budget of at most 1000 B: the smallest choice of types among Q4_0, "),
        ('size = { at_most = "1GB" }', "with a budget of at most 1000000000 B: the smallest choice"),
        ("bits = 4", "with a budget of 4 bits: the smallest choice"),
        ('size = { at_most = "9GB" }', "gguf-q4_0 does not fit galaxy-s24"),
    ],
)
def test_a_budget_that_can_not_be_spent_fails_the_plan(
    planned: Callable[..., tuple[str, dict[str, Any]]], asked: str, said: str
) -> None:
    text, report = planned("release --dry-run", 1, phone=asked)
    assert said in text
    assert report["cells"][0]["problem"]["fix"].startswith("ask for ")


def test_a_registered_bundle_is_listed_with_its_budget(
    command: InProcess, tmp_path: Path, migrated_database: Path
) -> None:
    matrix = MatrixEntry(name="lm_head.weight", storage="Q8_0", bytes=1, sensitivity=0.5, cost=0.25)
    spent = BudgetEntry(asked="at most 2000000000 B", bytes=1, matrices=[matrix])
    register_cells(tmp_path, migrated_database, {"iphone-15": {"budget": spent}, "pixel-9": {}})
    listed = json.loads(command("ls", "--json").stdout)["result"]["versions"]
    assert [row["budget"] for row in listed] == ["at most 2000000000 B", None]
    assert "gguf-q4_0, at most 2 GB" in command("ls").stdout
    assert "budget      at most 2000000000 B\n" in command("show", "phi:1.0.0@iphone-15").stdout
    assert "budget" not in command("show", "phi:1.0.0@pixel-9").stdout
