"""The keys of jobs: a digest of everything that a job's result depends on.

checkpoint, calibration, tools, our code ──walk_key──>
checkpoint, recipe with budget and KV cache, context, calibration, tools, our code ──build_key──>
    + evaluation, runtimes, oracle ──validation_key──>

A validation's key is made from its build's key, not from the bundle's digest, so that it is known before the bundle is
built. The record of a validation names the bundle it measured; it counts only for that one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version

from builders.oracle.library import oracle_tools
from builders.own_code import own_code_digest
from builders.quantization.calibration.walks import CalibrationWalk
from builders.quantization.sensitivity_cache import SENSITIVITY_TOOLS
from builders.tool_versions import WALK_TOOLS
from targets.calibration import Calibration
from targets.recipes import Format, Recipe

# What a build's bytes depend on, other than phipack itself: with a new version of one of these it is built again.
BUILD_TOOLS: dict[Format, tuple[str, ...]] = {
    "gguf": ("gguf", "llama-cpp-python", "numpy", "numba"),
    "onnx": ("onnx", "onnxruntime", "numpy", "numba"),
    "coreml": ("coremltools", "numpy", "numba"),
}
RUNTIMES: dict[Format, tuple[str, ...]] = {
    "gguf": ("llama-cpp-python",),
    "onnx": ("onnxruntime", "onnxruntime-genai"),
    "coreml": ("coremltools",),
}
# They read the tokenizer and render the chat template: a tokenizer.json that is made, special tokens, notes, token ids.
TOKENIZER_TOOLS = ("transformers", "tokenizers", "sentencepiece", "jinja2")
CALIBRATION_TOOLS = ("torch",)  # that a calibrated build depends on as well
HARNESS = "lm-eval"  # where tasks are asked for


@dataclass(frozen=True)
class CalibrationKey:
    """What a calibrated build depends on in addition. `text`: digest of what is read."""

    level: Calibration
    text: str


def walk_key(checkpoint_digest: str, walk: CalibrationWalk, text: str) -> str:
    """Return the key of a calibration. `text`: digest of what is read."""
    tools = {name: version(name) for name in walk_tools(walk)}
    return _key(checkpoint_digest, walk.label, text, tools, own_code_digest(), "calibrate")


def walk_tools(walk: CalibrationWalk) -> tuple[str, ...]:
    """Return the packages that a calibration's numbers depend on, other than phipack itself."""
    return WALK_TOOLS if walk.blocks is None else SENSITIVITY_TOOLS[walk.blocks]


def build_key(
    checkpoint_digest: str, recipe: Recipe, context_length: int, calibration: CalibrationKey | None = None
) -> str:
    """Return the key of a build. `calibration`: None where nothing is calibrated.

    Of the recipe its name counts, its budget with the types that may be chosen for it, and its KV cache. Raises
    `ValueError` for a budget that fits a target: what is built depends on the bytes that this comes to.
    """
    tools = {name: version(name) for name in key_tools(recipe.format, is_calibrated=calibration is not None)}
    learned = () if calibration is None else (asdict(calibration),)
    return _key(checkpoint_digest, recipe.name, context_length, tools, own_code_digest(), *learned, *_chosen(recipe))


def _chosen(recipe: Recipe) -> tuple[dict[str, object], ...]:
    """Return what the key of a recipe with a budget or a KV cache of its own has in addition."""
    cache: tuple[dict[str, object], ...] = ({"kv_cache": recipe.kv_cache},) if recipe.kv_cache else ()
    if recipe.budget is None:
        return cache
    if recipe.budget.kind == "fit":
        raise ValueError(f"the budget of {recipe.name} is not resolved for a target")
    return ({"budget": (recipe.budget.kind, float(recipe.budget.amount)), "candidates": recipe.candidates}, *cache)


def key_tools(format_: Format, *, is_calibrated: bool) -> tuple[str, ...]:
    """Return the packages that a build's bytes depend on, other than phipack itself."""
    return (*BUILD_TOOLS[format_], *TOKENIZER_TOOLS, *(CALIBRATION_TOOLS if is_calibrated else ()))


def validation_key(
    build: str,
    format_: Format,
    evaluation: Mapping[str, object],
    *,
    is_merged: bool = False,
    on_own_runtime: bool = False,
) -> str:
    """Return the key of a validation.

    Args:
        build: the key of the build whose bundle is measured.
        format_: the bundle's.
        evaluation: the settings, with the text's digest in place of its path.
        is_merged: the checkpoint is a base with an adapter.
        on_own_runtime: figures are asked for that only the format's own runtime has, so another one's won't do.
    """
    has_tasks = evaluation.get("tasks") is not None
    tools = {name: version(name) for name in validation_tools(format_, has_tasks=has_tasks, is_merged=is_merged)}
    return _key(build, dict(evaluation), tools, own_code_digest(), "own runtime" if on_own_runtime else "any runtime")


def validation_tools(format_: Format, *, has_tasks: bool, is_merged: bool) -> tuple[str, ...]:
    """Return the packages that a validation's figures depend on, other than phipack itself.

    What the float32 reference is held to computes and reads with the same packages as the reference.
    """
    return (*RUNTIMES[format_], *oracle_tools(is_merged=is_merged), *((HARNESS,) if has_tasks else ()))


def measurement_key(build: str, target: str) -> str:
    """Return the key of a measurement on a device: of its bundle's build, and of its target."""
    return _key(build, target, "measure")


def checkpoint_key(digest: str) -> str:
    """Return the key of a checkpoint's record: the first digits of its digest, 128 bits of it."""
    return digest.removeprefix("sha256:")[:32]


def build_tools(format_: Format) -> dict[str, str]:
    """Return the tools that a bundle of this format names in its manifest, with their versions."""
    return {name: version(name) for name in ("phipack", *BUILD_TOOLS[format_])}


def bundle_tools(format_: Format, *, is_merged: bool) -> tuple[str, ...]:
    """Return the packages that a format's bundles and their figures depend on, other than phipack itself."""
    return tuple(
        dict.fromkeys((*BUILD_TOOLS[format_], *validation_tools(format_, has_tasks=False, is_merged=is_merged)))
    )


def installed_tools(names: Iterable[str]) -> str:
    """Return what a job's key depends on here, for messages: `phipack 1a2b…, gguf 0.19.0, numpy 2.3.5, …`."""
    return f"phipack {own_code_digest()[:12]}, " + ", ".join(f"{name} {version(name)}" for name in names)


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()[:32]
