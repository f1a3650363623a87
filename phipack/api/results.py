"""Reports: what the longer works of the API return. What went wrong with a part is data here, not an exception."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from registry.bundle.folder import Bundle
from registry.ledger.versions import CellVersion
from targets.calibration import Calibration
from targets.devices import Target
from targets.errors import Failure, GateError, PhipackError, ReleaseError
from targets.evidence import Evidence, Figure
from targets.fit import RecipeFit
from targets.gates import CHANGE, GateResult
from targets.measurement import Measurement
from targets.references import Version
from targets.roofline import PredictedSpeed


@dataclass(frozen=True)
class BuildOutcome:
    """One bundle of a build: `bundle` where it was built, else `problem`."""

    recipe: str
    path: Path
    bundle: Bundle | None
    problem: PhipackError | None


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
class CalibrationReport:
    """What was measured of a checkpoint, or was in the cache.

    Attributes:
        level: light or full.
        text: what was read: the path of a file, or a name.
        text_digest: of the token ids, as manifests of calibrated bundles name it.
        tokens: how many were read.
        seconds: what it took, almost nothing where it was in the cache.
        folder: where it is kept.
        imatrix: the importance matrix that was written; None where none was asked for.
    """

    level: Calibration
    text: str
    text_digest: str
    tokens: int
    seconds: float
    folder: Path
    imatrix: Path | None


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
    """Whether a recipe fits a target.

    `bundle_bytes`: the exact size of its bundle, known where a checkpoint is. `speed`: of decoding, as predicted; None
    where the recipe does not fit.
    """

    fit: RecipeFit
    bundle_bytes: int | None
    speed: PredictedSpeed | None = None


@dataclass(frozen=True)
class FitReport:
    """How every recipe of a model fits a target."""

    model: str
    target: Target
    recipes: tuple[SizedFit, ...]


@dataclass(frozen=True)
class RegisteredCell:
    """A cell of a release, with the evidence that was registered for it.

    `measurements`: on devices, that the store has of its bundle by now. `run`: where its report is with its evidence:
    the address of a page of MLflow's server, else the run's URI. `reason`: why its release is made; empty where its
    project file does not say.
    """

    version: CellVersion
    evidence: Evidence
    measurements: tuple[Measurement, ...] = ()
    run: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ReviewedCell:
    """What a report says of one cell in short.

    `state`: pass, warn (its gates pass, and checks fail or a finding has to be looked at) or fail. `findings`: what to
    look at, the worst first, each with its severity: fail, defect, look or note.
    """

    cell: str
    state: str
    verdict: str
    findings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ReportPage:
    """A report for reviewers. `html`: the page, in one file. `against`: what it compares with; empty for nothing."""

    title: str
    against: str
    state: str
    verdict: str
    cells: tuple[ReviewedCell, ...]
    html: bytes


@dataclass(frozen=True)
class CellReport:
    """One cell of a release, or of its dry run.

    Attributes:
        cell: the cell's name in the project file.
        target: the target's name.
        recipe: the recipe's name.
        calibration: none, light or full.
        budget: the size that was asked for, such as `at most 2000000000 B` or `4.2 bits`, where `fit` is shown as what
            it comes to on the target; None where the recipe alone says how weights are stored.
        kv_cache: the type of keys and values with which the bundle is opened, such as `q8_0`; empty for the format's
            own.
        candidates: of a dry run: the types that may be chosen for the budget, as those that are fast on the target; all
            of the format's where empty.
        context_length: tokens that the bundle provides for; None where the cell can't be built.
        size_bytes: of the bundle; in a dry run all files but manifest.json. None where the cell can't be built.
        digest: of the bundle; None where there is none, and in a dry run.
        figures: what is known of it, by name; in a dry run what is predicted, and what an earlier run has measured.
        gates: results of the gates on these figures.
        open_gates: of a dry run: figures that other gates bound, which validation will measure.
        built: True where it was, or would have to be, built; False where an earlier build is used.
        measured: the same for its evidence.
        registered: True where it is; False too for a cell that passed, where a release is registered whole or not at
            all and another cell did not pass.
        problem: why it is not registered, or in a dry run why it will not be built or, where an earlier run has
            measured it, does not pass; None where it passed, and in a dry run that finds nothing against it but gates
            on what an earlier run has measured.
    """

    cell: str
    target: str
    recipe: str
    calibration: Calibration = "none"
    budget: str | None = None
    kv_cache: str = ""
    candidates: tuple[str, ...] = ()
    context_length: int | None = None
    size_bytes: int | None = None
    digest: str | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    gates: tuple[GateResult, ...] = ()
    open_gates: tuple[str, ...] = ()
    built: bool = False
    measured: bool = False
    registered: bool = False
    problem: PhipackError | None = None

    @property
    def slow_types(self) -> tuple[str, ...]:
        """Of a dry run with a budget: the types that are left out, as they are slow on the target."""
        from targets.storage.gguf import CANDIDATES

        return tuple(name for name in CANDIDATES if name not in self.candidates) if self.candidates else ()

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every reason why it does not pass: each failed gate by itself."""
        if isinstance(self.problem, GateError) and self.problem.failures:
            return self.problem.failures
        if self.problem is not None:
            return (Failure(self.cell, self.problem.problem),)
        return tuple(Failure(self.cell, str(gate)) for gate in self.gates if not gate.passed)


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

    @property
    def failures_by_fix(self) -> tuple[tuple[str, tuple[Failure, ...]], ...]:
        """The same reasons, those with one fix together; the fix is empty where a cell's problem has none."""
        found: dict[str, list[Failure]] = {}
        for cell in self.cells:
            found.setdefault("" if cell.problem is None else cell.problem.fix, []).extend(cell.failures)
        return tuple((fix, tuple(failures)) for fix, failures in found.items() if failures)

    def raise_for_failures(self) -> None:
        """Raise where a cell failed.

        Raises:
            GateError: cells failed at their gates, and nothing else went wrong.
            ReleaseError: a cell failed for another reason.
        """
        failed = [cell for cell in self.cells if cell.failures]
        if not failed:
            return
        names = ", ".join(cell.cell for cell in failed)
        how = "would fail" if self.dry_run else "failed"
        problem = f"{self.model} {self.version}: {len(failed)} of {len(self.cells)} cells {how}: {names}"
        fix = "fix these and run the same command again: the other cells are kept and not built again"
        if self.dry_run:
            fixes = {fix for fix, _ in self.failures_by_fix}
            shared = fixes.pop() if len(fixes) == 1 else "fix these, each as is said with it; nothing was built"
            fix = shared or CHANGE
        if all(cell.problem is None or isinstance(cell.problem, GateError) for cell in failed):
            raise GateError(problem, failures=self.failures, fix=fix)
        raise ReleaseError(problem, fix=fix)
