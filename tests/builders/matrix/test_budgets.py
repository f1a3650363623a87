"""Cells with a budget: jobs of their own, sizes before the build, and what can't be is refused before it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders.build_cache import BuildCache
from builders.checkpoint import Checkpoint
from builders.conversion import BuildRequest
from builders.matrix.cell_plan import CellPlan, CellPlanner, Inputs
from builders.matrix.cluster.work import release_work
from builders.matrix.graph import Graph, Job
from builders.matrix.planning import plan_release
from builders.matrix.records import CheckpointFacts, built_bundle
from builders.matrix.work import Site, run_job
from builders.quantization.budget import Choice, ChosenMatrix
from builders.sizes import bundle_sizes
from registry.bundle.recipe import recipe_of
from registry.store.actions import read_record, record_names
from registry.store.folder import FolderStore
from targets.budget import Budget
from targets.budget_fit import choice_range
from targets.devices import Quantity
from targets.errors import FitError, GateError, RecipeError
from targets.fit import memory_bytes, weight_bytes
from targets.gates import Gate
from targets.project import Cell
from tests.support.cells import BRIEF, cell

FIT = Budget("fit")


def budgeted(budget: Budget, *candidates: str, name: str = "phone", recipe: str = "gguf-q4_0") -> Cell:
    """Return a cell whose bundle fits on any phone: what is chosen is up to the budget alone."""
    plain = cell(name, recipe, calibration="light")
    return replace(plain, recipe=replace(plain.recipe, budget=budget, candidates=candidates))


@pytest.fixture
def site(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A machine that gives all matrices Q8_0, whatever the budget."""

    def choose(requests: Mapping[Path, BuildRequest], *_: Any) -> tuple[dict[Path, BuildRequest], dict[Path, Any]]:
        return {place: chosen(request) for place, request in requests.items()}, {}

    monkeypatch.setattr("builders.matrix.work.calibrate_requests", choose)
    monkeypatch.setattr("builders.matrix.work.check_before_building", lambda *_, **__: None)
    return Site(tiny, BRIEF, BuildCache(tmp_path / "home"), FolderStore(tmp_path / "store"))


def chosen(request: BuildRequest) -> BuildRequest:
    recipe = choice_range(request.checkpoint.architecture, request.recipe)[1]
    size = sum(bundle_sizes(replace(request, recipe=recipe)).values())
    matrices = tuple(ChosenMatrix(name, kind, 1, 0.5, 0.25) for name, kind in recipe.types)
    return replace(request, recipe=recipe, choice=Choice(matrices, size))


def plan(site: Site, one: Cell) -> CellPlan:
    return CellPlanner(site.inputs).plan(one)


def jobs(site: Site, *cells: Cell) -> tuple[Job, ...]:
    """Return the jobs of cells, without their calibrations, which nothing is measured for here."""
    return tuple(job for job in graph(site, *cells) if job.kind != "calibrate")


def graph(site: Site, *cells: Cell) -> Graph:
    return plan_release(CellPlanner(site.inputs), cells).graph


def ends(site: Site, one: Cell) -> tuple[int, int]:
    """Return the sizes of the bundles with the smallest and the largest types."""
    requests = (
        BuildRequest.from_checkpoint(site.checkpoint, recipe, 256)
        for recipe in choice_range(site.checkpoint.architecture, one.recipe)
    )
    least, most = (sum(bundle_sizes(request).values()) for request in requests)
    return least, most


def of_bytes(count: float) -> Budget:
    return Budget("bytes", int(count))


def test_cells_that_differ_in_budget_are_two_bundles(site: Site) -> None:
    least, most = ends(site, budgeted(FIT))
    cells = [
        cell("plain", "gguf-q4_0", calibration="light"),
        budgeted(of_bytes(least), name="small"),
        budgeted(of_bytes(most), name="large"),
        budgeted(of_bytes(most), "Q8_0", "Q4_0", name="fast"),
        budgeted(of_bytes(most), name="again"),
        budgeted(Budget.of_bits(6.5), name="bits"),
    ]
    planned = jobs(site, *cells)
    builds = [job for job in planned if job.kind == "build"]
    assert [job.cells for job in builds] == [("plain",), ("small",), ("large", "again"), ("fast",), ("bits",)]
    assert len({job.key for job in planned}) == 10
    assert [job.name.rpartition("-")[0] for job in builds] == [
        "build-gguf-q4_0-light-256",
        f"build-gguf-q4_0-light-{least}B-256",
        f"build-gguf-q4_0-light-{most}B-256",
        f"build-gguf-q4_0-light-{most}B-256",
        "build-gguf-q4_0-light-6.5bits-256",
    ]


def test_a_job_has_the_whole_recipe_wherever_it_is_sent(site: Site) -> None:
    one = budgeted(Budget.of_bits(6.5), "Q8_0", "Q4_0")
    for job in jobs(site, one):
        sent = pickle.loads(pickle.dumps(job))
        assert sent.whole_recipe == one.recipe
        assert site.key(sent) == job.key
        assert site.key(replace(sent, budget=Budget.of_bits(6.6))) != job.key
        assert site.key(replace(sent, candidates=("Q8_0",))) != job.key


def test_a_cluster_finds_what_was_built(site: Site, tiny: Checkpoint) -> None:
    (tmp := Path(site.store.uri.removeprefix("file://"))).mkdir(exist_ok=True)
    assert tmp.exists()
    work = release_work(tiny, BRIEF, site.store, (tiny.path, None), None, site.calibration)
    build, validation = jobs(site, budgeted(Budget.of_bits(6.5)))
    assert "torch" in work.packages(build)
    assert not work.is_done(build)
    run_job(build, site)
    assert work.is_done(build)
    assert not work.is_done(validation)
    assert not work.is_done(replace(build, key=jobs(site, budgeted(Budget.of_bits(6.6)))[0].key))


def test_what_is_chosen_is_in_the_bundle_and_known_to_later_plans(site: Site) -> None:
    one = budgeted(of_bytes(ends(site, budgeted(FIT))[1]))
    before = plan(site, one)
    assert before.figures is not None
    assert before.figures["artifact_bytes"].on.endswith("manifest.json, at most")
    assert run_job(jobs(site, one)[0], site)
    manifest = built_bundle(site.store, jobs(site, one)[0].key)
    assert manifest is not None
    assert manifest.recipe.budget is not None
    assert manifest.recipe.budget.asked == one.recipe.budget.label  # type: ignore[union-attr]
    assert manifest.recipe.budget.bytes == sum(file.bytes for file in manifest.files)
    assert {kind for _, kind in recipe_of(manifest).types} == {"Q8_0"}
    stored = weight_bytes(site.checkpoint.architecture, recipe_of(manifest))
    assert stored == sum(weight.bytes for weight in manifest.recipe.weights)
    after = plan(site, one)
    assert after.is_built
    assert after.bundle_bytes == manifest.recipe.budget.bytes
    assert after.figures is not None
    assert after.figures["artifact_bytes"].on.endswith("manifest.json")
    predicted = after.figures["predicted_memory_bytes"].value
    assert predicted == memory_bytes(site.checkpoint.architecture, recipe_of(manifest), 256)


def test_a_size_is_planned_as_what_it_allows(site: Site) -> None:
    one = budgeted(FIT)
    least, most = ends(site, one)
    middle = (least + most) // 2
    assert plan(site, budgeted(of_bytes(middle))).bundle_bytes == middle
    bits = 6.5
    architecture = site.checkpoint.architecture
    smallest, _ = choice_range(architecture, one.recipe)
    rest = least - weight_bytes(architecture, smallest)
    allowed = plan(site, budgeted(Budget.of_bits(bits))).bundle_bytes
    assert allowed == pytest.approx(rest + architecture.parameter_count * bits / 8, abs=100)
    needs = [jobs(site, each)[0].needs for each in (budgeted(of_bytes(least)), budgeted(of_bytes(most)))]
    assert [one.disk_bytes for one in needs] == [least, most]
    plain = jobs(site, cell("phone", "gguf-q4_0", calibration="light"))[0].needs
    assert needs[0].seconds == plain.seconds
    calibrations = [job for job in graph(site, budgeted(of_bytes(least))) if job.kind == "calibrate"]
    assert [job.name.rpartition("-")[0] for job in calibrations] == [
        "calibrate-light",
        "calibrate-sensitivities-gguf",
    ]
    walk, sensitivities = (job.needs for job in calibrations)
    assert sensitivities.seconds > walk.seconds > 0
    assert sensitivities.memory_bytes > walk.memory_bytes > 0


def test_rates_of_budgets_are_their_own_and_shared_by_all_sizes(site: Site) -> None:
    small, large = (budgeted(of_bytes(size)) for size in ends(site, budgeted(FIT)))
    before = [jobs(site, each)[0].needs.seconds for each in (small, large)]
    run_job(jobs(site, large)[0], site)
    (name,) = record_names(site.store, "build")
    record = read_record(site.store, name)
    assert record is not None
    assert record.recipe == "gguf-q4_0-budget"  # it was calibrated by nobody here
    assert before[0] == before[1]


@pytest.mark.parametrize(("share", "which"), [(-0.01, "below"), (1.01, "above")])
def test_a_size_that_no_choice_has_is_refused_before_any_build(
    site: Site, share: float, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builders.matrix.work.build_each", None)
    least, most = ends(site, budgeted(FIT))
    one = budgeted(of_bytes(least + share * (most - least)))
    found = plan(site, one)
    assert isinstance(found.problem, RecipeError), which
    assert f"takes {least:,} B, the largest {most:,} B" in found.problem.problem
    assert found.problem.fix.startswith(f"ask for {least}B to {most}B")
    assert found.budget == one.recipe.budget
    assert jobs(site, one) == ()
    bits = Budget.of_bits(3.0 if share < 0 else 8.6)
    assert isinstance(plan(site, budgeted(bits)).problem, RecipeError)


def test_a_size_that_fails_a_gate_for_certain_is_refused(site: Site) -> None:
    least, most = ends(site, budgeted(FIT))
    gates = {"cell": {"artifact_bytes": Gate(at_most=most - 1), "kl_mean": Gate(at_most=1.0)}}
    found = plan(site, replace(budgeted(of_bytes(most)), gates=gates))
    assert isinstance(found.problem, GateError)
    assert plan(site, replace(budgeted(of_bytes(least)), gates=gates)).problem is None


def small_phone(site: Site, one: Cell, share: float) -> Cell:
    """Return the cell for a phone whose memory has room for that share of what the largest types take."""
    architecture = site.checkpoint.architecture
    smallest, largest = (memory_bytes(architecture, each, 512) for each in choice_range(architecture, one.recipe))
    memory = Quantity(value=smallest + share * (largest - smallest), source="a test", confirmed=True)
    return replace(one, target=one.target.model_copy(update={"app_memory": memory}))


def test_fit_becomes_bytes_and_another_target_is_another_build(site: Site) -> None:
    one, other = (replace(small_phone(site, budgeted(FIT), share), context_length=512) for share in (0.5, 0.6))
    found = plan(site, one)
    assert found.problem is None
    assert found.budget is not None
    assert found.budget.kind == "bytes"
    assert found.bundle_bytes == found.budget.amount
    assert found.figures is not None
    memory = found.figures["predicted_memory_bytes"].value
    assert one.target.app_memory_bytes - 2 <= memory <= one.target.app_memory_bytes
    builds = [jobs(site, each)[0] for each in (one, other)]
    assert builds[0].budget == found.budget
    assert builds[0].key != builds[1].key
    assert f"-light-{int(found.budget.amount)}B-512-" in builds[0].name
    assert site.key(builds[0]) == builds[0].key


def test_fit_stays_below_every_gate_on_memory(site: Site) -> None:
    wide = replace(small_phone(site, budgeted(FIT), 0.9), context_length=512)
    narrow = small_phone(site, budgeted(FIT), 0.5).target.app_memory_bytes
    gates = {
        "cell": {"predicted_memory_bytes": Gate(at_most=narrow)},
        "project": {"predicted_memory_bytes": Gate(at_most=2 * narrow), "kl_mean": Gate(at_most=1.0)},
    }
    for order in (gates, dict(reversed(gates.items()))):
        found = plan(site, replace(wide, gates=order))
        assert found.problem is None
        assert found.figures is not None
        assert narrow - 2 <= found.figures["predicted_memory_bytes"].value <= narrow


def test_a_number_of_bytes_is_one_key_whether_it_has_a_point_or_not(site: Site) -> None:
    _, most = ends(site, budgeted(FIT))
    whole, with_point = (jobs(site, budgeted(Budget("bytes", size)))[0] for size in (most, float(most)))
    assert (whole.key, whole.name) == (with_point.key, with_point.name)


def test_fit_is_the_same_number_where_the_checkpoints_files_are_not(site: Site) -> None:
    """`release --finish` knows the facts of the checkpoint alone."""
    one = small_phone(site, budgeted(FIT), 0.5)
    run_job(jobs(site, one)[0], site)
    facts = CheckpointFacts(site.checkpoint.architecture, site.checkpoint.digest, None)
    elsewhere = CellPlanner(Inputs(facts, site.settings, site.store, site.calibration))
    found = elsewhere.plan(one)
    assert found.is_built
    assert found.budget == plan(site, one).budget


def test_fit_that_nothing_fits_is_refused(site: Site) -> None:
    found = plan(site, small_phone(site, budgeted(FIT), -0.2))
    assert isinstance(found.problem, FitError)
    assert found.budget == FIT
    with pytest.raises(ValueError, match="not resolved for a target"):
        site.inputs.build_key(replace(budgeted(FIT), context_length=256))
