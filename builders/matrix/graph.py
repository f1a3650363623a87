"""The graph of a release's jobs: what must be done, in which order, and what each job needs of a machine.

    checkpoint ──calibrate──> statistics ──build──> bundle ──validate──> evidence
                                                      └─────measure───> figures of a device

A job is named by its inputs, so cells that share a bundle share its jobs, and a job that any machine has recorded is
done. Nothing here does any work, and nothing here reads a file: `planning.py` makes graphs, `work.py` does jobs.

Registration is no job: it needs MLflow, and the coordinator does it at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Literal, get_args

from builders.quantization.calibration.walks import Blocks, CalibrationWalk
from targets.budget import Budget
from targets.calibration import Calibration
from targets.recipes import Recipe, recipe_named

Kind = Literal["calibrate", "build", "validate", "measure"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NAME_KEY_LENGTH = 8  # hex digits of a job's key in its name


@dataclass(frozen=True)
class Needs:
    """What a machine must have to do a job.

    Attributes:
        labels: kinds of machine, such as `macos` or `android`; empty where any machine will do.
        memory_bytes: at its peak, estimated.
        disk_bytes: free in the work folder, estimated; what is read of the checkpoint is not in it.
        seconds: on a machine like those that the estimate's rates come from.
    """

    labels: frozenset[str] = frozenset()
    memory_bytes: int = 0
    disk_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Job:
    """One piece of work that any machine with the checkpoint and the store can do, and that is recorded in the store.

    Attributes:
        name: stable and readable: `build-gguf-q4_k_m-4096-1a2b3c4d`.
        kind: what is done.
        key: digest of all inputs, in hex; the name of its record in the store.
        after: names of jobs that must be done before.
        cells: names of the cells that need it.
        needs: what it needs of a machine.
        is_done: True where the store had its record, and all that the record names, when the graph was made.
        recipe: the recipe of its bundle; empty for a calibration, which is for bundles of several recipes.
        context_length: of its bundle, in tokens; 0 for a calibration.
        calibration: of its bundle; of a calibration, the level that is measured.
        blocks: of a calibration that measures sensitivities: in which 4-bit blocks.
        budget: of its bundle, in bytes or bits; None where the recipe alone says how weights are stored.
        candidates: the types that may be chosen for the budget; all of the format's where empty.
        kv_cache: the type of its bundle's KV cache; the format's own where empty.
        target, soc: of a measurement: the device that it is for, and its chip.
    """

    name: str
    kind: Kind
    key: str
    after: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    needs: Needs = Needs()
    is_done: bool = False
    recipe: str = ""
    context_length: int = 0
    calibration: Calibration = "none"
    blocks: Blocks | None = None
    budget: Budget | None = None
    candidates: tuple[str, ...] = ()
    kv_cache: str = ""
    target: str = ""
    soc: str = ""

    @property
    def whole_recipe(self) -> Recipe:
        """The recipe of its bundle, with its budget and KV cache. Raises `RecipeError` for an unknown name."""
        recipe = recipe_named(self.recipe)
        return replace(recipe, budget=self.budget, candidates=self.candidates, kv_cache=self.kv_cache)

    @property
    def walk(self) -> CalibrationWalk:
        """What a calibration measures."""
        return CalibrationWalk(self.calibration, self.blocks)


def job_name(kind: Kind, recipe: str, context_length: int, key: str) -> str:
    """Return a job's name: kind, recipe (with what it is built with), context and the first digits of its key."""
    return f"{kind}-{recipe}-{context_length}-{key[:NAME_KEY_LENGTH]}"


def calibration_name(walk: CalibrationWalk, key: str) -> str:
    """Return the name of a calibration's job: `calibrate-light-1a2b3c4d`."""
    return f"calibrate-{walk.label}-{key[:NAME_KEY_LENGTH]}"


@dataclass(frozen=True)
class Graph:
    """Jobs, each after those that it needs: calibrations first, and otherwise in the order in which they came.

    Raises:
        ValueError: two jobs have one name, a job is after one that is not in the graph, or jobs wait for each other.
    """

    jobs: tuple[Job, ...]

    def __init__(self, jobs: Iterable[Job]) -> None:
        object.__setattr__(self, "jobs", _in_order(tuple(jobs)))

    def __iter__(self) -> Iterator[Job]:
        """Yield all jobs, in order."""
        return iter(self.jobs)

    @cached_property
    def by_name(self) -> dict[str, Job]:
        """All jobs by their names."""
        return {job.name: job for job in self.jobs}

    @property
    def pending(self) -> tuple[Job, ...]:
        """The jobs that are not done, in order."""
        return tuple(job for job in self.jobs if not job.is_done)

    def of_cell(self, cell: str) -> tuple[Job, ...]:
        """Return the jobs that a cell needs, in order."""
        return tuple(self._by_cell.get(cell, ()))

    @cached_property
    def _by_cell(self) -> dict[str, list[Job]]:
        found: dict[str, list[Job]] = {}
        for job in self.jobs:
            for cell in job.cells:
                found.setdefault(cell, []).append(job)
        return found


def _in_order(jobs: tuple[Job, ...]) -> tuple[Job, ...]:
    by_name = {job.name: job for job in jobs}
    if len(by_name) < len(jobs):
        raise ValueError("two jobs have one name")
    for job in jobs:
        if missing := [name for name in job.after if name not in by_name]:
            raise ValueError(f"{job.name} is after {missing[0]}, which is not in the graph")
    sorter = TopologicalSorter({job.name: job.after for job in jobs})
    try:
        sorter.prepare()
    except CycleError as error:
        raise ValueError(f"jobs wait for each other: {', '.join(error.args[1])}") from error
    position = {job.name: place for place, job in enumerate(jobs)}
    ordered: list[Job] = []
    waiting: list[str] = []
    while sorter.is_active():
        ready = sorted([*waiting, *sorter.get_ready()], key=position.__getitem__)
        chosen = [name for name in ready if by_name[name].kind == "calibrate"] or ready
        waiting = [name for name in ready if name not in chosen]
        ordered += [by_name[name] for name in chosen]
        sorter.done(*chosen)
    return tuple(ordered)
