"""A release over a real store: outcomes as data, and a plan that says beforehand what will be."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.build_cache import BuildCache
from builders.checkpoint import Checkpoint
from builders.release import CellOutcome, Release
from registry.store.folder import FolderStore
from targets.devices import target_named
from targets.errors import BuildError, Failure, GateError
from targets.evaluation import EvaluationSettings
from targets.gates import Gate
from targets.progress import Event, Step
from targets.project import Cell
from targets.recipes import recipe_named

BRIEF = EvaluationSettings(tokens=128, window=64, greedy_prompts=2, greedy_prompt_tokens=8, greedy_new_tokens=4)
LOOSE = {"project": {"kl_mean": Gate(at_most=1.0), "artifact_bytes": Gate(at_most=1e9)}}


def cell(name: str, recipe: str = "gguf-q8_0", gates: dict[str, dict[str, Gate]] = LOOSE) -> Cell:
    return Cell(name, target_named("iphone-15"), recipe_named(recipe), 256, gates)


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def registered() -> list[str]:
    return []


@pytest.fixture
def release(tiny: Checkpoint, tmp_path: Path, events: list[Event], registered: list[str]) -> Release:
    return Release(
        checkpoint=tiny,
        settings=BRIEF,
        cache=BuildCache(tmp_path / "work"),
        store=FolderStore(tmp_path / "store"),
        register=lambda cell, _manifest, _evidence: registered.append(cell.name),
        on_progress=events.append,
    )


def run(release: Release, *cells: Cell) -> list[CellOutcome]:
    return list(release.run(cells))


def test_the_plan_is_what_the_run_then_does(release: Release, registered: list[str]) -> None:
    cells = (cell("phone"), cell("tablet"))
    before = release.plan(cells)
    assert [(plan.is_built, plan.is_measured, plan.problem) for plan in before] == [(False, False, None)] * 2
    assert not release.cache.root.exists()  # a plan writes nothing
    outcomes = run(release, *cells)
    assert [(outcome.built, outcome.measured) for outcome in outcomes] == [(True, True), (True, False)]
    assert registered == ["phone", "tablet"]
    for plan, outcome in zip(before, outcomes, strict=True):
        assert outcome.failures == ()
        assert outcome.manifest is not None
        assert outcome.evidence is not None
        assert plan.figures is not None
        assert plan.bundle_bytes == sum(file.bytes for file in outcome.manifest.files)
        assert plan.figures["artifact_bytes"].value == plan.bundle_bytes
        predicted = {name: figure for name, figure in plan.figures.items() if name != "artifact_bytes"}
        assert predicted.items() <= outcome.evidence.figures.items()
        assert set(predicted) == {"predicted_decode_tokens_per_second", "predicted_memory_bytes"}
        assert (plan.context_length, plan.open_gates) == (256, ("kl_mean",))
        assert [(gate.figure, gate.passed) for gate in plan.gates] == [("artifact_bytes", True)]
    after = release.plan(cells)
    assert [(plan.is_built, plan.is_measured, plan.open_gates) for plan in after] == [(True, True, ())] * 2
    assert [(outcome.built, outcome.measured) for outcome in run(release, *cells)] == [(False, False)] * 2


def test_a_plan_reads_no_weight(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Checkpoint, phases: object = None) -> None:
        raise AssertionError("weights are opened to be read")

    monkeypatch.setattr(Checkpoint, "digest", property(refuse))  # nothing is cached: no need to hash either
    monkeypatch.setattr("builders.checkpoint.sources.ShardSource.tensor", refuse)
    monkeypatch.setattr("builders.checkpoint.sources.ShardSource.stored_tensor", refuse)
    assert [plan.problem for plan in release.plan((cell("phone"), cell("mac", "coreml-int4")))] == [None, None]


def test_a_gate_on_a_predicted_figure_fails_in_the_plan(release: Release) -> None:
    asked = {"cell": {"artifact_bytes": Gate(at_most=1), "kl_mean": Gate(at_most=1)}}
    (plan,) = release.plan((cell("phone", gates=asked),))
    assert [failure.cell for failure in plan.failures] == ["phone"]
    assert plan.failures[0].problem.startswith("artifact_bytes is ")


def test_a_cell_that_can_not_be_built_says_so_in_the_plan_and_in_the_run(release: Release) -> None:
    long = Cell("phone", target_named("iphone-15"), recipe_named("gguf-q8_0"), 1 << 20, LOOSE)
    (plan,) = release.plan((long,))
    (outcome,) = run(release, long)
    assert plan.problem is not None
    assert plan.failures == outcome.failures == (Failure("phone", plan.problem.problem),)
    assert (plan.bundle_bytes, plan.figures, outcome.manifest, outcome.evidence) == (None, None, None, None)


def test_every_gate_that_fails_is_one_failure_of_its_cell(release: Release, registered: list[str]) -> None:
    strict = {"project": {"kl_mean": Gate(at_most=1e-12), "same_top_share": Gate(at_least=1.1)}}
    outcomes = run(release, cell("strict", gates=strict), cell("loose"))
    assert isinstance(outcomes[0].problem, GateError)
    assert [failure.cell for failure in outcomes[0].failures] == ["strict", "strict"]
    assert [failure.problem.split()[0] for failure in outcomes[0].failures] == ["kl_mean", "same_top_share"]
    assert registered == ["loose"]


def test_what_the_registry_refuses_is_the_cells_own_problem(tiny: Checkpoint, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise BuildError("no", fix="yes")

    store = FolderStore(tmp_path / "store")
    (outcome,) = run(Release(tiny, BRIEF, BuildCache(tmp_path / "work"), store, refuse), cell("phone"))
    assert outcome.failures == (Failure("phone", "no"),)
    assert outcome.evidence is not None


def test_steps_have_stable_names_and_the_cell_as_their_subject(release: Release, events: list[Event]) -> None:
    run(release, cell("phone"), cell("tablet", "gguf-q4_0"), cell("same as phone"))
    lines = list(dict.fromkeys((event.subject, event.name) for event in events if isinstance(event, Step)))
    assert len([event for event in events if not isinstance(event, Step)]) == 0
    measured = ["oracle", "reference", "compare", "generate", "speed"]
    assert sorted(lines) == sorted(
        [(name, step) for name in ("phone", "tablet") for step in ("write", "hash", "store", *measured)]
    )
