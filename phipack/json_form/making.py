"""Forms of `targets`, `recipes`, `fit`, `build`, `calibrate`, `convert`, `export`, `inspect` and `release`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from phipack.api.results import (
    BuildReport,
    CalibrationReport,
    CellReport,
    ExportedModel,
    FitReport,
    ReleaseReport,
    WrittenCheckpoint,
)
from phipack.json_form.budget import BudgetForm, budget_form
from phipack.json_form.form import Form, ProblemForm, problem_form
from registry.bundle.folder import Bundle
from registry.bundle.manifest import AdapterEntry, CalibrationEntry, Manifest
from targets.architecture import Architecture
from targets.calibration import Calibration
from targets.devices import Target
from targets.evidence import Figure
from targets.gates import GateResult
from targets.recipes import Format, Recipe, default_calibration
from targets.roofline import PredictedSpeed

if TYPE_CHECKING:
    from builders.checkpoint import Checkpoint


class TargetsForm(Form):
    """All targets, each as in its TOML file."""

    targets: list[Target]


class RecipeForm(Form):
    """A recipe."""

    name: str
    format: Format
    bits: int
    summary: str
    calibration: Calibration = Field(description="what its builds learn from a text, where nobody says otherwise")


class RecipesForm(Form):
    """All recipes."""

    recipes: list[RecipeForm]


class SpeedForm(Form):
    """A predicted speed of decoding, in tokens per second. `low` to `high` hold 80 % of the probability."""

    value: float
    low: float = Field(description="what gates on the prediction use")
    high: float
    basis: str = Field(description="what the share of the memory bandwidth was learned from")
    leave_one_out_error: float = Field(
        description="how far a figure is off that is predicted from all others; root mean square, a share"
    )


class RecipeFitForm(Form):
    """How one recipe fits. Cache and runtime are at the longest context, or at the least useful one if none fits."""

    recipe: str
    fits: bool
    reason: str = Field(description="why it does not fit, or what to know where it does; may be empty")
    longest_context_tokens: int
    weight_bytes: int
    kv_cache_bytes: int
    runtime_bytes: int
    bundle_bytes: int | None = Field(description="exact size of a bundle; null for a model that is known by name only")
    decode_tokens_per_second: SpeedForm | None = Field(description="predicted; null where the recipe does not fit")


class FitForm(Form):
    """How every recipe of a model fits a target."""

    model: str
    target: str
    app_memory_bytes: int
    recipes: list[RecipeFitForm]


class BundleForm(Form):
    """A bundle in a folder."""

    path: str
    digest: str
    recipe: str
    calibration: CalibrationEntry | None = Field(description="null where the weights were rounded without one")
    budget: str | None = Field(description="the size that was asked for: `at most 2000000000 B` or `4.2 bits`")
    kv_cache: str | None = Field(description="type of keys and values to open it with; null: the format's own")
    size_bytes: int
    context_tokens: int
    notes: list[str]


class BuildFailureForm(Form):
    """A bundle that could not be built."""

    path: str
    recipe: str
    problem: ProblemForm


class BuildForm(Form):
    """What was built, and what was not."""

    bundles: list[BundleForm]
    failed: list[BuildFailureForm]
    seconds: float


class CalibrationForm(Form):
    """What was measured of a checkpoint for calibrated builds."""

    level: Calibration
    text: str = Field(description="what was read: the path of a file, or a name")
    text_digest: str = Field(description="of the token ids, as manifests of calibrated bundles name it")
    tokens: int
    seconds: float = Field(description="almost nothing where it was in the cache")
    path: str = Field(description="the folder that keeps it")
    imatrix: str | None = Field(description="the importance matrix that was written, for llama.cpp")


class ConvertForm(Form):
    """A checkpoint that was written in another layout."""

    path: str
    layout: str
    notes: list[str]


class ExportForm(Form):
    """A plain ONNX folder."""

    path: str
    files: list[str]


class InspectedBundleForm(Form):
    """A bundle; `manifest` is its `manifest.json`."""

    kind: Literal["bundle"] = "bundle"
    path: str
    digest: str
    size_bytes: int
    verified: bool = Field(description="true where every byte was compared with the manifest")
    budget: BudgetForm | None = Field(description="how its budget was spent; null where it has none")
    manifest: Manifest


class InspectedCheckpointForm(Form):
    """A checkpoint."""

    kind: Literal["checkpoint"] = "checkpoint"
    path: str
    digest: str
    merged_from: AdapterEntry | None = Field(description="digests of base and adapter, where one was named")
    architecture: Architecture
    parameters: int
    stop_token_ids: list[int]
    has_chat_template: bool
    tokenizer_files: list[str]
    weight_files: list[str]


class CellForm(Form):
    """One cell of a release; in a dry run, what would become of it."""

    cell: str
    target: str
    recipe: str
    calibration: Calibration
    budget: str | None = Field(
        description="the size that was asked for: `at most 2000000000 B` or `4.2 bits`; `fit` in bytes, once planned"
    )
    kv_cache: str | None = Field(description="type of keys and values to open it with; null: the format's own")
    candidates: list[str] = Field(
        description="in a dry run: types that may be chosen for the budget; empty: all of the format's"
    )
    context_tokens: int | None
    size_bytes: int | None
    digest: str | None
    built: bool = Field(description="false where an earlier build was used")
    measured: bool = Field(description="false where an earlier measurement was used")
    registered: bool
    problem: ProblemForm | None = Field(description="why it is not registered, or will not be built")
    figures: dict[str, Figure] = Field(description="in a dry run those that are predicted, or were measured before")
    gates: list[GateResult] = Field(description="results of the gates on these figures")
    open_gates: list[str] = Field(description="in a dry run: figures that other gates bound, to be measured")


class ReleaseForm(Form):
    """What became of a release, cell by cell."""

    model: str
    version: str
    dry_run: bool
    passed: bool
    cells: list[CellForm]


def targets_form(targets: Sequence[Target]) -> TargetsForm:
    """Describe targets."""
    return TargetsForm(targets=list(targets))


def recipes_form(recipes: Sequence[Recipe]) -> RecipesForm:
    """Describe recipes."""
    return RecipesForm(
        recipes=[
            RecipeForm(
                name=one.name,
                format=one.format,
                bits=one.bits,
                summary=one.summary,
                calibration=default_calibration(one),
            )
            for one in recipes
        ]
    )


def fit_form(report: FitReport) -> FitForm:
    """Describe how recipes fit."""
    recipes = [
        RecipeFitForm(
            recipe=one.fit.recipe,
            fits=one.fit.fits,
            reason=one.fit.reason,
            longest_context_tokens=one.fit.longest_context,
            weight_bytes=one.fit.weight_bytes,
            kv_cache_bytes=one.fit.kv_cache_bytes,
            runtime_bytes=one.fit.runtime_bytes,
            bundle_bytes=one.bundle_bytes,
            decode_tokens_per_second=None if one.speed is None else _speed_form(one.speed),
        )
        for one in report.recipes
    ]
    return FitForm(
        model=report.model,
        target=report.target.name,
        app_memory_bytes=report.target.app_memory_bytes,
        recipes=recipes,
    )


def _speed_form(speed: PredictedSpeed) -> SpeedForm:
    return SpeedForm(
        value=speed.value,
        low=speed.low,
        high=speed.high,
        basis=speed.efficiency.basis,
        leave_one_out_error=speed.efficiency.leave_one_out_error,
    )


def bundle_form(bundle: Bundle) -> BundleForm:
    """Describe a bundle in a folder."""
    manifest = bundle.manifest
    return BundleForm(
        path=str(bundle.path),
        digest=bundle.digest,
        recipe=manifest.recipe.name,
        calibration=manifest.recipe.calibration,
        budget=None if manifest.recipe.budget is None else manifest.recipe.budget.asked,
        kv_cache=manifest.recipe.kv_cache or None,
        size_bytes=manifest.total_bytes,
        context_tokens=manifest.model.context_length,
        notes=manifest.recipe.notes,
    )


def build_form(report: BuildReport) -> BuildForm:
    """Describe what was built."""
    return BuildForm(
        bundles=[bundle_form(one.bundle) for one in report.outcomes if one.bundle is not None],
        failed=[
            BuildFailureForm(path=str(one.path), recipe=one.recipe, problem=problem_form(one.problem))
            for one in report.outcomes
            if one.problem is not None
        ],
        seconds=report.seconds,
    )


def calibration_form(report: CalibrationReport) -> CalibrationForm:
    """Describe what was measured of a checkpoint."""
    return CalibrationForm(
        level=report.level,
        text=report.text,
        text_digest=report.text_digest,
        tokens=report.tokens,
        seconds=report.seconds,
        path=str(report.folder),
        imatrix=None if report.imatrix is None else str(report.imatrix),
    )


def convert_form(written: WrittenCheckpoint) -> ConvertForm:
    """Describe a checkpoint in another layout."""
    return ConvertForm(path=str(written.path), layout=written.layout, notes=list(written.notes))


def export_form(exported: ExportedModel) -> ExportForm:
    """Describe a plain ONNX folder."""
    return ExportForm(path=str(exported.path), files=list(exported.files))


def inspected_bundle_form(bundle: Bundle, *, verified: bool) -> InspectedBundleForm:
    """Describe a bundle whole."""
    return InspectedBundleForm(
        path=str(bundle.path),
        digest=bundle.digest,
        size_bytes=bundle.manifest.total_bytes,
        verified=verified,
        budget=budget_form(bundle.manifest),
        manifest=bundle.manifest,
    )


def inspected_checkpoint_form(checkpoint: Checkpoint) -> InspectedCheckpointForm:
    """Describe a checkpoint."""
    from builders.tokenizer import stop_token_ids

    return InspectedCheckpointForm(
        path=str(checkpoint.path),
        digest=checkpoint.digest,
        merged_from=checkpoint.merged_from,
        architecture=checkpoint.architecture,
        parameters=checkpoint.architecture.parameter_count,
        stop_token_ids=list(stop_token_ids(checkpoint)),
        has_chat_template=checkpoint.chat_template is not None,
        tokenizer_files=sorted(checkpoint.tokenizer_files),
        weight_files=[file.name for file in checkpoint.shard_files],
    )


def release_form(report: ReleaseReport) -> ReleaseForm:
    """Describe a release."""
    return ReleaseForm(
        model=report.model,
        version=str(report.version),
        dry_run=report.dry_run,
        passed=report.passed,
        cells=[cell_form(cell) for cell in report.cells],
    )


def cell_form(cell: CellReport) -> CellForm:
    """Describe a cell of a release, or of its dry run."""
    return CellForm(
        cell=cell.cell,
        target=cell.target,
        recipe=cell.recipe,
        calibration=cell.calibration,
        budget=cell.budget,
        kv_cache=cell.kv_cache or None,
        candidates=list(cell.candidates),
        context_tokens=cell.context_length,
        size_bytes=cell.size_bytes,
        digest=cell.digest,
        built=cell.built,
        measured=cell.measured,
        registered=cell.registered,
        problem=None if cell.problem is None else problem_form(cell.problem),
        figures=dict(cell.figures),
        gates=list(cell.gates),
        open_gates=list(cell.open_gates),
    )
