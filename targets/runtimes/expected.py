"""What a recipe will need of a runtime, before a bundle is built: from the model's shape and the storage plan alone.

`fit` and the checks before a build use it. What a bundle needs in truth is read from its files; tests hold the two to
each other for every recipe and family. The pre-tokenizer is left out: it follows from the tokenizer's files.
"""

from __future__ import annotations

from targets.architecture import Architecture
from targets.recipes import Format, Recipe
from targets.storage import StoredWeight
from targets.storage.onnx import Blocks, Stacked, storage_of
from targets.storage.plans import plan_of

ONNX_OPSET, ONNX_IR = 21, 10  # IR 10 is the one of opset 21: runtimes on phones are older than this machine's
COREML_SPECIFICATION = 9  # the one of iOS 18: states, and int4 in blocks


def expected_features(architecture: Architecture, recipe: Recipe, context_length: int) -> frozenset[str]:
    """Return the features that a bundle will use. Raises `UnsupportedModelError` where the recipe can't store it."""
    weights = plan_of(architecture, recipe)
    return frozenset(_EXPECTED[recipe.format](architecture, recipe, weights, context_length))


def cache_features(bundle_format: Format, kv_cache: str) -> set[str]:
    """Return what a bundle needs in addition that is opened with a type of KV cache; nothing for the default.

    Nothing in ONNX either: there the graph shows it.
    """
    return {f"gguf/kv_cache/{kv_cache}"} if kv_cache and bundle_format == "gguf" else set()


def _gguf(architecture: Architecture, recipe: Recipe, weights: tuple[StoredWeight, ...], __: int) -> set[str]:
    family = architecture.family
    found = {"gguf/version/3", f"gguf/architecture/{family}"} | cache_features("gguf", recipe.kv_cache)
    found |= {f"gguf/tensor/{weight.storage}" for weight in weights}
    if architecture.longrope is not None:
        found |= {f"gguf/rope_factors/{family}", "gguf/tensor/F32"}
        if architecture.rotary_dim != architecture.head_dim:
            found.add(f"gguf/partial_rotary/{family}")
    if architecture.tied_embeddings:
        found.add(f"gguf/tied/{family}")
    if family == "phi3" and not architecture.sliding_window:
        found.add(f"gguf/no_window/{family}")
    return found


def _onnx(
    architecture: Architecture, recipe: Recipe, weights: tuple[StoredWeight, ...], context_length: int
) -> set[str]:
    operators = {"SkipLayerNormalization"} if architecture.biased else set(_RMS_NORMS)
    operators |= {"QuickGelu", "GroupQueryAttention", "GroupQueryAttention/rotary"}
    chosen_rows = architecture.longrope_edge(context_length) is not None
    if architecture.effective_window is not None:
        operators |= {"GroupQueryAttention/window"}
    if chosen_rows:
        operators |= {"GroupQueryAttention/positions"}
    if recipe.has_scaled_cache:
        operators |= {f"GroupQueryAttention/{recipe.kv_cache}"}
    if architecture.effective_sparsity(context_length) is not None:
        operators |= {"SparseAttention"} | ({"RotaryEmbedding"} if chosen_rows else {"SparseAttention/rotary"})
    for weight in weights:
        operators |= _matrix_operators(architecture, recipe, weight)
    found = {f"onnx/ir/{ONNX_IR}", f"onnx/opset/{ONNX_OPSET}", f"genai/model/{architecture.family}"}
    found |= {f"onnx/operator/{name}" for name in operators}
    return found | ({f"genai/longrope/{architecture.family}"} if chosen_rows else set())


_RMS_NORMS = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")


def _matrix_operators(architecture: Architecture, recipe: Recipe, weight: StoredWeight) -> set[str]:
    """Return the operators that read a matrix: in blocks, or with elements of their own."""
    if len(weight.shape) == 1:
        return set()
    storage = storage_of(weight.name, architecture, recipe)
    groups = [blocks for _, blocks in storage.groups] if isinstance(storage, Stacked) else [storage]
    looked_up = weight.name == "model.embed_tokens.weight"
    multiplied = not looked_up or architecture.tied_embeddings
    found: set[str] = set()
    for one in groups:
        if not isinstance(one, Blocks):
            found |= {"FusedMatMul"} if multiplied else set()
            continue
        for operator, used in (("GatherBlockQuantized", looked_up), ("MatMulNBits", multiplied)):
            found |= {operator, f"{operator}/bits={one.bits}"} if used else set()
    return found


def _coreml(_: Architecture, __: Recipe, ___: tuple[StoredWeight, ...], ____: int) -> set[str]:
    return {f"coreml/specification/{COREML_SPECIFICATION}"}


_EXPECTED = {"gguf": _gguf, "onnx": _onnx, "coreml": _coreml}
