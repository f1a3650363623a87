"""Reports: what the longer works of the API return. What went wrong with a part is data here, not an exception."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.bundle.folder import Bundle
from registry.ledger.versions import CellVersion
from targets.devices import Target
from targets.errors import Failure, GateError, PhipackError, ReleaseError
from targets.evidence import Evidence
from targets.fit import RecipeFit
from targets.recipes import Recipe
from targets.references import Version


@dataclass(frozen=True)
class PhaseTime:
    """What a build spent on one kind of work. `busy_seconds`: of all its threads together; `bytes`: 0 if unknown."""

    name: str
    busy_seconds: float
    bytes: int


@dataclass(frozen=True)
class BuildOutcome:
    """One bundle of a build: `bundle` where it was built, else `problem`."""

    recipe: str
    path: Path
    bundle: Bundle | None
    problem: PhipackError | None
    phases: tuple[PhaseTime, ...]


@dataclass(frozen=True)
class BuildReport:
    """Several bundles, built from one read of their checkpoint in `seconds`."""

    outcomes: tuple[BuildOutcome, ...]
    seconds: float

    @property
    def bundles(self) -> tuple[Bundle, ...]:
        """The bundles that were built."""
        return tuple(one.bundle for one in self.outcomes if one.bundle is not None)

    def raise_for_failures(self) -> None:
        """Raise the first problem, if there is one."""
        for one in self.outcomes:
            if one.problem is not None:
                raise one.problem


@dataclass(frozen=True)
class WrittenCheckpoint:
    """A checkpoint that was written in another layout. `notes`: where it answers differently."""

    path: Path
    layout: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ExportedModel:
    """A plain ONNX folder that optimum wrote. `files`: their names."""

    path: Path
    files: tuple[str, ...]


@dataclass(frozen=True)
class SizedFit:
    """Whether a recipe fits a target. `bundle_bytes`: the exact size of its bundle, known where a checkpoint is."""

    fit: RecipeFit
    bundle_bytes: int | None


@dataclass(frozen=True)
class FitReport:
    """How every recipe of a model fits a target."""

    model: str
    target: Target
    recipes: tuple[SizedFit, ...]


@dataclass(frozen=True)
class RegisteredCell:
    """A cell of a release, with the evidence that was registered for it."""

    version: CellVersion
    evidence: Evidence


@dataclass(frozen=True)
class CellReport:
    """One cell of a release, or of its dry run.

    Attributes:
        cell: the cell's name in the project file.
        target: the target's name.
        recipe: what it is, or would be, built with.
        context_length: tokens that the bundle provides for; None where the recipe does not fit.
        size_bytes: of the bundle: exact, in a dry run predicted; None where it is not known.
        digest: of the bundle, where there is one.
        evidence: what is known of it; in a dry run the predicted figures, and those of an earlier measurement.
        built: True where it was, or would have to be, built; False where an earlier build is used.
        measured: the same for its evidence.
        problem: why it is not registered; None where it is, or where a dry run predicts nothing against it.
    """

    cell: str
    target: str
    recipe: Recipe
    context_length: int | None = None
    size_bytes: int | None = None
    digest: str | None = None
    evidence: Evidence | None = None
    built: bool = False
    measured: bool = False
    problem: PhipackError | None = None

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every reason why it does not pass: each failed gate by itself."""
        if self.problem is None:
            return ()
        if isinstance(self.problem, GateError) and self.problem.failures:
            return self.problem.failures
        return (Failure(self.cell, self.problem.problem),)


@dataclass(frozen=True)
class ReleaseReport:
    """What became of a release, cell by cell. `dry_run`: nothing was built, measured or registered."""

    model: str
    version: Version
    dry_run: bool
    cells: tuple[CellReport, ...]

    @property
    def passed(self) -> bool:
        """True where nothing stands against any cell."""
        return not self.failures

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every reason why a cell does not pass."""
        return tuple(failure for cell in self.cells for failure in cell.failures)

    def raise_for_failures(self) -> None:
        """Raise where a cell failed.

        Raises:
            GateError: cells failed at their gates, and nothing else went wrong.
            ReleaseError: a cell failed for another reason. Its `exit_code` is the cells' own where they agree.
        """
        failed = [cell for cell in self.cells if cell.problem is not None]
        if not failed:
            return
        names = ", ".join(cell.cell for cell in failed)
        problem = f"{self.model} {self.version}: {len(failed)} of {len(self.cells)} cells failed: {names}"
        fix = "fix these and run the same command again: the other cells are kept and not built again"
        if all(isinstance(cell.problem, GateError) for cell in failed):
            raise GateError(problem, failures=self.failures, fix=fix)
        error = ReleaseError(problem, fix=fix)
        error.exit_code = _common_exit_code([cell.problem for cell in failed if cell.problem], error.exit_code)
        raise error


def _common_exit_code(problems: Sequence[PhipackError], otherwise: int) -> int:
    codes = {problem.exit_code for problem in problems}
    return codes.pop() if len(codes) == 1 else otherwise
