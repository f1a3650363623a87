"""Llama and Phi-3-small as ONNX: against transformers and a plain implementation, prefill, steps, onnxruntime-genai."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.runtime.onnx_generation import generate_tokens
from builders.runtime.onnx_session import open_session
from registry.bundle.folder import Bundle
from targets.errors import UnsupportedModelError
from targets.recipes import recipe_named
from tests.support import small
from tests.support.cases import cases
from tests.support.checkpoints import edit_config, write_json, write_tiny
from tests.support.parity import FP16_TOLERANCE, some_tokens, tiny_bundle
from tests.support.plain_small import plain_logits
from tests.support.small import RELEASED_BLOCKS, write_telling
from tests.support.transformers_models import transformers_logits

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|transformers|onnx|google).*"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]
RECIPES = ["onnx-fp16", "onnx-int4"]
TELLING = small.TELLING | {"mup_embedding_multiplier": 1.0}
EDGE = 64
# Name -> (tokens, shape, config).
SMALL: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "before sparsity bites": (30, {}, {}),
    "sparse": (200, {}, {}),
    "one sparse layer": (200, {"layers": 1}, {}),
    "all layers sparse but the third": (200, {"layers": 3}, {"dense_attention_every_n_layers": 3}),
    "patterns that divide the heads": (200, {"heads": 4}, {"blocksparse_vert_stride": 2}),
    "fewer heads than patterns": (200, {"heads": 2, "kv_heads": 2}, {"blocksparse_vert_stride": 8}),
    "blocks as released": (1300, {"context": 1400}, RELEASED_BLOCKS),
    "a context of no whole blocks": (203, {"context": 203}, {}),
    "up to longrope's edge": (EDGE, {"original_context": EDGE}, {}),
    "past longrope's edge": (EDGE + 1, {"original_context": EDGE}, {}),
    "far past longrope's edge": (3 * EDGE, {"original_context": EDGE}, {}),
    "untied": (100, {"tied": False}, {"tie_word_embeddings": False}),
    "clamped": (100, {}, {"gegelu_limit": 0.2}),
}
FURTHER = (
    "one sparse layer",
    "fewer heads than patterns",
    "blocks as released",
    "up to longrope's edge",
    "far past longrope's edge",
)


def small_bundle(folder: Path, recipe: str, config: dict[str, Any], **changes: Any) -> tuple[Path, Bundle]:
    """Write a tiny Phi-3-small whose attention tells, and build it for its whole context."""
    write_small(folder / "checkpoint", config, **changes)
    checkpoint = open_checkpoint(folder / "checkpoint")
    context = checkpoint.architecture.context_length
    return checkpoint.path, build(checkpoint, recipe_named(recipe), folder / "bundle", context_length=context)


def write_small(folder: Path, config: dict[str, Any], **changes: Any) -> None:
    """Write a tiny Phi-3-small with other values in its config."""
    given = {"seed": 3, "dtype": "F16", "layers": 2, **changes}
    write_telling(folder, TELLING | config, family="phi3small", **given)
    if config.get("tie_word_embeddings") is False:
        _add_head(folder)


@pytest.mark.parametrize(("length", "changes", "config"), cases(SMALL, FURTHER))
def test_small_in_fp16_agrees_with_a_plain_implementation(
    tmp_path: Path, length: int, changes: dict[str, Any], config: dict[str, Any]
) -> None:
    checkpoint, bundle = small_bundle(tmp_path, "onnx-fp16", config, **changes)
    tokens = some_tokens(length)
    reference = plain_logits(checkpoint, tokens)
    with open_session(bundle) as session:
        logits = session.score(tokens)
    assert np.isneginf(logits[:, [300, 319]]).all()
    assert np.array_equal(np.isfinite(logits), np.isfinite(reference))
    assert _gap(logits, reference) < FP16_TOLERANCE


def test_a_dense_small_would_be_seen(tmp_path: Path) -> None:
    # What the test above would see if the sparse layers saw everything: far more than its tolerance.
    checkpoint, _ = small_bundle(tmp_path, "onnx-fp16", {})
    tokens = some_tokens(200)
    sparse = plain_logits(checkpoint, tokens)
    write_small(checkpoint, {"blocksparse_num_local_blocks": 100})
    dense = plain_logits(checkpoint, tokens)
    assert _gap(sparse, dense) > 5 * FP16_TOLERANCE
    assert _gap(sparse[:32], dense[:32]) == 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_smalls_steps_give_what_prefill_gives(tmp_path: Path, recipe: str) -> None:
    _, bundle = small_bundle(tmp_path, recipe, {})
    tokens = some_tokens(120)
    with open_session(bundle) as session:
        whole = session.score(tokens)
        stepped = [session.prefill(tokens[:21]), *(session.step(int(token)) for token in tokens[21:])]
    assert _gap(np.stack(stepped), whole[20:]) < (FP16_TOLERANCE if recipe == "onnx-fp16" else 0.2)


def test_small_crosses_longropes_edge_while_generating(tmp_path: Path) -> None:
    checkpoint, bundle = small_bundle(tmp_path, "onnx-fp16", {}, original_context=EDGE)
    tokens = some_tokens(EDGE + 4)
    with open_session(bundle) as session:
        stepped = [session.prefill(tokens[: EDGE - 4]), *(session.step(int(token)) for token in tokens[EDGE - 4 :])]
    for end, row in zip(range(EDGE - 4, EDGE + 5), stepped, strict=True):
        assert _gap(row, plain_logits(checkpoint, tokens[:end])[-1]) < FP16_TOLERANCE


def test_small_in_int4_follows_the_reference(tmp_path: Path) -> None:
    checkpoint, bundle = small_bundle(tmp_path, "onnx-int4", {})
    tokens = some_tokens(200)
    reference = plain_logits(checkpoint, tokens)
    with open_session(bundle) as session:
        logits = session.score(tokens)
    finite = np.isfinite(reference)
    assert np.corrcoef(logits[finite], reference[finite])[0, 1] > 0.95


def test_which_layers_have_which_operator(tmp_path: Path) -> None:
    _, bundle = small_bundle(tmp_path, "onnx-int4", {}, layers=4)
    assert _operators(bundle, "Attention") == ["SparseAttention", "GroupQueryAttention"] * 2
    _, short = small_bundle(tmp_path / "short", "onnx-int4", {}, layers=4, context=32)
    assert _operators(short, "Attention") == ["GroupQueryAttention"] * 4  # 2 blocks of 16: all layers see everything


def test_blocks_that_the_operator_does_not_know_are_refused(tmp_path: Path) -> None:
    write_small(tmp_path / "checkpoint", {"blocksparse_block_size": 8})
    with pytest.raises(UnsupportedModelError, match="blocks of 8 tokens") as caught:
        build(open_checkpoint(tmp_path / "checkpoint"), recipe_named("onnx-fp16"), tmp_path / "bundle")
    assert "Core ML" in str(caught.value.fix)


@pytest.mark.parametrize("changes", [{}, {"kv_heads": 4, "tied": True}, {"layers": 3, "dtype": "BF16"}])
def test_llama_in_fp16_agrees_with_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    checkpoint, bundle = tiny_bundle(tmp_path, "onnx-fp16", family="llama", **changes)
    tokens = some_tokens(60)
    reference = transformers_logits(checkpoint, tokens)
    with open_session(bundle) as session:
        assert np.abs(session.score(tokens) - reference).max() < FP16_TOLERANCE
        stepped = [session.prefill(tokens[:30]), *(session.step(int(token)) for token in tokens[30:])]
    assert np.abs(np.stack(stepped) - reference[29:]).max() < FP16_TOLERANCE


def test_llama_and_phi3_of_the_same_weights_are_one_graph(tmp_path: Path) -> None:
    # Both are seen in one order of rows; what differs is the name in the graph and the type in the runtime's config.
    _, llama = tiny_bundle(tmp_path / "llama", "onnx-int4", family="llama")
    _, phi3 = tiny_bundle(tmp_path / "phi3", "onnx-int4")
    graphs = [onnx.load(bundle.file("model.onnx"), load_external_data=False).graph for bundle in (llama, phi3)]
    assert list(graphs[0].node) == list(graphs[1].node)
    assert [tensor.dims for tensor in graphs[0].initializer] == [tensor.dims for tensor in graphs[1].initializer]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("family", ["llama", "phi3small"])
def test_genai_runs_each_family_as_its_own_type(tmp_path: Path, family: str, recipe: str) -> None:
    if family == "llama":
        _, bundle = tiny_bundle(tmp_path, recipe, family="llama")
    else:
        _, bundle = small_bundle(tmp_path, recipe, {})
    assert json.loads(bundle.file("genai_config.json").read_bytes())["model"]["type"] == family
    prompt = [int(token) for token in some_tokens(60)]
    expected = _greedy(bundle, prompt, 8)
    assert len(set(expected)) > 2  # else it would prove little
    assert list(generate_tokens(bundle, prompt, 8)) == expected


@pytest.mark.parametrize("original_context", [None, 256])
def test_genai_goes_on_with_a_conversation(tmp_path: Path, original_context: int | None) -> None:
    # Several tokens after what is in the cache already, as the next turn of a chat has them.
    import onnxruntime_genai as genai

    _, bundle = small_bundle(tmp_path, "onnx-fp16", {}, original_context=original_context)
    tokens = some_tokens(90)
    with open_session(bundle) as session:
        expected = session.prefill(tokens)
    model = genai.Model(str(bundle.path))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=200, do_sample=False)
    generator = genai.Generator(model, parameters)
    for start, end in ((0, 40), (40, 41), (41, 77), (77, 90)):
        generator.append_tokens(tokens[None, start:end].astype(np.int32))
    assert _gap(np.asarray(generator.get_logits()).ravel()[-len(expected) :], expected) < FP16_TOLERANCE


@pytest.mark.parametrize(("family", "edge"), [("phi3", 4096), ("phi3small", 8192)])
def test_genai_reads_a_sequence_again_at_the_released_edge(tmp_path: Path, family: str, edge: int) -> None:
    shape = {"hidden": 32, "heads": 2, "kv_heads": 1, "context": edge + 64, "original_context": edge}
    folder = write_tiny(tmp_path / "checkpoint", family=family, dtype="F16", **shape)
    config = json.loads((folder / "config.json").read_bytes())
    config["rope_scaling"]["long_factor"] = [30 * factor for factor in config["rope_scaling"]["long_factor"]]
    write_json(folder / "config.json", config | (TELLING if family == "phi3small" else {}))
    bundle = build(open_checkpoint(folder), recipe_named("onnx-fp16"), tmp_path / "bundle", context_length=edge + 64)
    assert not any("does not read a sequence again" in note for note in bundle.manifest.recipe.notes)
    prompt = [int(token) for token in some_tokens(edge - 4)]
    assert list(generate_tokens(bundle, prompt, 10)) == _greedy(bundle, prompt, 10)


def _greedy(bundle: Bundle, prompt: list[int], count: int) -> list[int]:
    stop, made = set(bundle.manifest.generation.stop_token_ids), []
    with open_session(bundle) as session:
        logits = session.prefill(np.asarray(prompt))
        while len(made) < count and int(logits.argmax()) not in stop:
            made.append(int(logits.argmax()))
            logits = session.step(made[-1])
    return made


def _gap(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference between logits that are not hidden."""
    finite = np.isfinite(other)
    return float(np.abs(one[finite] - other[finite]).max())


def _operators(bundle: Bundle, ending: str) -> list[str]:
    graph = onnx.load(bundle.file("model.onnx"), load_external_data=False).graph
    return [node.op_type for node in graph.node if node.op_type.endswith(ending)]


def _add_head(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    head = np.random.default_rng(9).standard_normal(weights["model.embed_tokens.weight"].shape) / 8
    save_file(weights | {"lm_head.weight": head.astype(np.float16)}, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(("key", "number"), [("long_mscale", 1e6), ("short_mscale", 1e-9)])
def test_a_number_out_of_float16s_range_is_refused(tmp_path: Path, key: str, number: float) -> None:
    """It was stored as infinity, 0 or with few digits."""
    folder = write_tiny(tmp_path / "checkpoint", family="phi3small", original_context=64)
    edit_config(folder, key, number)
    with pytest.raises(UnsupportedModelError, match="out of float16's range"):
        build(open_checkpoint(folder), recipe_named("onnx-fp16"), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
