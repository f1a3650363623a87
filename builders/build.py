"""The one way to build a bundle: the converter of its format writes the weights, the rest is the same for all.

Here: the order of the steps, several builds at once, and the manifest. What a converter is asked for and returns is in
`conversion.py`; sizes before a build in `sizes.py`.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path

from builders.artifact.content_borders import content_digests
from builders.checkpoint import CHAT_TEMPLATE_NAME, Checkpoint
from builders.checkpoint.lockstep import LockstepSource, in_lockstep
from builders.conversion import BuildRequest, Conversion, FormatPackage, default_context_length
from builders.quantization.calibration.statistics import CalibrationStatistics, unusable_note
from builders.quantization.fold import FoldedSource
from builders.tokenizer import bundled_tokenizer, named_id
from registry.bundle.folder import Bundle, file_entries, seal
from registry.bundle.manifest import (
    BudgetEntry,
    CalibrationEntry,
    FileEntry,
    GenerationEntry,
    Manifest,
    MatrixEntry,
    ModelEntry,
    RecipeEntry,
)
from registry.bundle.requirements import required_by
from registry.files.staging import staged_folder
from targets.errors import BuildError, CheckpointError, PhipackError, RecipeError
from targets.kv_cache import check_kv_cache
from targets.progress import Notice, Progress, Step, silent
from targets.recipes import Format, Recipe, has_types
from targets.runtimes.expected import cache_features

_LOOK_SECONDS = 0.2  # from one look for signals to the next, while builds run


def _nothing(_out: Path, _bundle: Bundle) -> None:
    """Do nothing with a bundle."""


def _gguf() -> FormatPackage:
    from builders import gguf

    return gguf


def _onnx() -> FormatPackage:
    from builders import onnx

    return onnx


def _coreml() -> FormatPackage:
    from builders import coreml

    return coreml


FORMATS: dict[Format, Callable[[], FormatPackage]] = {"gguf": _gguf, "onnx": _onnx, "coreml": _coreml}


def build(  # noqa: PLR0913 - all that a bundle is made from, and where it goes
    checkpoint: Checkpoint,
    recipe: Recipe,
    out: Path,
    *,
    context_length: int | None = None,
    statistics: CalibrationStatistics | None = None,
    on_progress: Progress = silent,
    replace: bool = False,
) -> Bundle:
    """Build a bundle at `out`. Same checkpoint, recipe, context, statistics and tool versions: same bytes.

    Args:
        checkpoint: what to build from.
        recipe: format and storage of the weights.
        out: the bundle's folder; must not exist, unless `replace`.
        context_length: longest sequence in tokens; the model's own, at most 4,096, by default.
        statistics: of a calibration (`calibrate.py`); by default weights are rounded without one.
        on_progress: receives the steps `write` and `hash`, whose subject is the recipe.
        replace: replace what is there, once the new bundle is whole.

    Raises:
        CheckpointError: the checkpoint is damaged, or of a kind that the recipe can't build.
        BuildError: `out` exists or can't be written, or the disk is full. Nothing is left behind.
        RecipeError: the recipe has a budget, and no types.
    """
    context_length = context_length or default_context_length(checkpoint)
    request = BuildRequest.from_checkpoint(checkpoint, recipe, context_length, on_progress)
    request = dataclasses.replace(request, statistics=statistics)
    return build_request(request, out, _digest_meanwhile(checkpoint), replace=replace)


def build_each(
    requests: Mapping[Path, BuildRequest], *, replace: bool = False, done: Callable[[Path, Bundle], None] = _nothing
) -> dict[Path, PhipackError]:
    """Build several bundles of one checkpoint at the same time, so that it is read once (`checkpoint/lockstep.py`).

    Returns what failed; the others are built. `done` is called with each bundle, one at a time, as soon as it is built;
    what it raises counts as that build's failure. An interrupt ends all builds.
    """
    checkpoint = next(iter(requests.values())).checkpoint
    digest = _digest_meanwhile(checkpoint)
    sources = in_lockstep(checkpoint, [request.source for request in requests.values()])
    finishing = threading.Lock()

    def one(source: LockstepSource, out: Path, request: BuildRequest) -> None:
        try:
            own = dataclasses.replace(request, source=source)
            bundle = build_request(own, out, digest, replace=replace, require_running=source.require_running)
        finally:
            source.leave()
        with finishing:
            done(out, bundle)

    running: dict[Path, Future[None]] = {}
    with ThreadPoolExecutor(len(requests)) as pool:
        try:
            for source, (out, request) in zip(sources, requests.items(), strict=True):
                running[out] = pool.submit(one, source, out, request)
            while wait(running.values(), timeout=_LOOK_SECONDS).not_done:
                pass  # a signal that comes just before a wait is handled after it, so waits are short
        except BaseException:
            sources[0].cancel_all()  # an interrupt: leaving the pool waits until the builds have cleaned up
            raise
    problems = {}
    for out, future in running.items():
        try:
            future.result()
        except PhipackError as error:
            problems[out] = error
    return problems


def build_request(
    request: BuildRequest,
    out: Path,
    digest: Future[str],
    *,
    replace: bool = False,
    require_running: Callable[[], None] = lambda: None,
) -> Bundle:
    """Build one bundle. Raises as `build` does.

    `digest`: of the checkpoint, awaited when the manifest is written. `require_running`: called when all is written,
    before the bundle appears at `out`; what it raises ends the build.
    """
    _require_types(request.recipe)
    _require_ranges(request)
    check_kv_cache(request.checkpoint.architecture, request.recipe)
    request = _folded(request)
    checkpoint, recipe, phases = request.checkpoint, request.recipe, request.phases
    tokenizer = bundled_tokenizer(checkpoint, recipe.format)
    not_calibrated = _not_calibrated(request)
    for note in [*tokenizer.notes, *not_calibrated]:
        request.on_progress(Notice(note))
    with staged_folder(out, replace=replace) as folder:
        for file, content in tokenizer.files.items():
            (folder / file).write_bytes(content)
        conversion = FORMATS[recipe.format]().convert(request, folder)
        request.on_progress(Step("hash", 0, 1, subject=recipe.name))
        with phases.phase("hash"):
            by_content = content_digests(folder, conversion.digests)
            files = file_entries(folder, {**conversion.digests, **by_content})
            _require_predicted_size(request, files)
            name = digest.result()
            checkpoint.require_unchanged()
        request.on_progress(Step("hash", 1, 1, subject=recipe.name))
        manifest = Manifest(
            schema="phipack.bundle/1",
            model=_model_entry(request, conversion),
            recipe=RecipeEntry(
                name=recipe.name,
                format=recipe.format,
                weights=sorted(conversion.weights, key=lambda weight: -weight.bytes),
                notes=[*checkpoint.notes, *conversion.notes, *tokenizer.notes, *not_calibrated],
                calibration=_calibration_entry(request.statistics),
                budget=_budget_entry(request),
                kv_cache=recipe.kv_cache,
            ),
            checkpoint=name,
            merged_from=checkpoint.merged_from,
            generation=GenerationEntry(
                stop_token_ids=list(tokenizer.stop_ids),
                bos_token_id=named_id(checkpoint, "bos_token_id"),
                pad_token_id=named_id(checkpoint, "pad_token_id"),
                chat_template=None if checkpoint.chat_template is None else CHAT_TEMPLATE_NAME,
            ),
            tools={"phipack": version("phipack"), **conversion.tools, **_calibration_tools(request.statistics)},
            files=files,
            requires=required_by(folder, files, cache_features(recipe.format, recipe.kv_cache)),
        )
        seal(folder, manifest)
        require_running()
    return Bundle(out, manifest)


def _require_types(recipe: Recipe) -> None:
    if recipe.budget is not None and not recipe.types:
        raise RecipeError(
            f"{recipe.name} has a budget ({recipe.budget.label}) and no types that were chosen for it",
            fix="build it with phipack.build or a release, which choose them; or ask for no budget",
        )


def _require_ranges(request: BuildRequest) -> None:
    recipe, statistics = request.recipe, request.statistics
    if recipe.has_scaled_cache and (statistics is None or statistics.cache_ranges is None):
        raise RecipeError(
            f"{recipe.name} with a KV cache in {recipe.kv_cache} needs to know how large keys and values become, "
            "which a calibration with a text measures",
            fix='choose calibration "light" or "full" with a text, or remove the type of the KV cache',
        )


def _require_predicted_size(request: BuildRequest, files: list[FileEntry]) -> None:
    found = sum(file.bytes for file in files)
    if request.choice is not None and found != request.choice.bytes:
        raise BuildError(
            f"{request.recipe.name}: {found:,} bytes were written, and {request.choice.bytes:,} predicted when its "
            "types were chosen",
            fix="choose the types again for the request that is built: calibrate_requests",
        )


def _folded(request: BuildRequest) -> BuildRequest:
    """Return the request with the calibration's factors folded into its source, where weights are quantized."""
    if request.statistics is None or not has_types(request.recipe):
        return request
    source = FoldedSource(request.source, request.checkpoint.architecture, request.statistics.factors)
    return dataclasses.replace(request, source=source)


def _not_calibrated(request: BuildRequest) -> list[str]:
    """Return a note on the matrices that are rounded without the calibration of the others; empty where none is."""
    if request.statistics is None or not has_types(request.recipe) or not request.statistics.unusable:
        return []
    return [unusable_note(request.statistics.unusable)]


def _calibration_entry(statistics: CalibrationStatistics | None) -> CalibrationEntry | None:
    if statistics is None or statistics.calibration == "none":
        return None
    return CalibrationEntry(level=statistics.calibration, text=statistics.text_digest, tokens=statistics.token_count)


def _budget_entry(request: BuildRequest) -> BudgetEntry | None:
    choice, budget = request.choice, request.recipe.budget
    if choice is None or budget is None:
        return None
    matrices = [MatrixEntry(**dataclasses.asdict(matrix)) for matrix in choice.matrices]
    return BudgetEntry(asked=budget.label, bytes=choice.bytes, matrices=matrices)


def _calibration_tools(statistics: CalibrationStatistics | None) -> dict[str, str]:
    """Return what measured the statistics: its version may change their last bits. Nothing for an importance matrix."""
    return {"torch": version("torch")} if statistics is not None and statistics.token_count else {}


def _model_entry(request: BuildRequest, conversion: Conversion) -> ModelEntry:
    architecture = request.checkpoint.architecture
    return ModelEntry(
        architecture=architecture.name,
        parameters=architecture.parameter_count,
        layers=architecture.layer_count,
        hidden_size=architecture.hidden_size,
        kv_heads=architecture.kv_head_count,
        head_dim=architecture.head_dim,
        vocabulary_size=architecture.vocabulary_size,
        context_length=request.context_length,
        exact_context_length=min(conversion.exact_context_length, request.context_length),
        exact_contexts=list(conversion.exact_contexts),
    )


def _digest_meanwhile(checkpoint: Checkpoint) -> Future[str]:
    """Compute the checkpoint's digest, which reads every byte, on a thread of its own while the build goes on."""
    digest: Future[str] = Future()

    def make() -> None:
        try:
            digest.set_result(checkpoint.digest)
        except OSError as error:
            fix = "check the disk and the files' permissions, then run the same command again"
            digest.set_exception(CheckpointError(f"{checkpoint.path} can't be read: {error}", fix=fix))
        except CheckpointError as error:
            digest.set_exception(error)

    # A daemon thread: an interrupted build does not wait for it.
    threading.Thread(target=make, daemon=True, name="checkpoint digest").start()
    return digest
