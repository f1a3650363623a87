"""An int8 KV cache in onnxruntime: what it holds are the keys and values of transformers' own model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from builders.build import build
from builders.build_cache import BuildCache
from builders.calibrate import calibrate_requests
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.conversion import BuildRequest
from builders.onnx import artifact_sizes
from builders.onnx.cache_scales import MARGIN, cache_scales
from builders.quantization.calibration.measure import MeasuredStatistics, measured_statistics, with_cache_ranges
from builders.quantization.calibration.special_tokens import special_token_windows
from builders.quantization.calibration.text import calibration_windows
from builders.runtime.onnx_generation import generate_tokens
from builders.runtime.onnx_session import open_session
from registry.bundle.folder import Bundle
from registry.bundle.requirements import check_requirements
from targets.calibration import CalibrationSettings
from targets.errors import CalibrationError, RecipeError, UnsupportedModelError
from targets.kv_cache import check_kv_cache, with_kv_cache
from targets.recipes import recipe_named
from targets.runtimes.expected import expected_features
from targets.storage.onnx import data_bytes
from tests.support.checkpoints import VOCABULARY_SIZE, Tiny, random_weights, write_tiny, write_weights
from tests.support.parity import LIKE_PHI_4_MINI

TOKENS = np.random.default_rng(5).integers(0, VOCABULARY_SIZE, (1, 48))
SHAPES: dict[str, dict[str, Any]] = {
    "phi3": {"window": 16},
    "longrope": {"original_context": 32, "kv_heads": 2},  # 48 tokens are past the edge
    "partly rotated": LIKE_PHI_4_MINI,
}


def learned(checkpoint: Checkpoint, folder: Path) -> MeasuredStatistics:
    statistics = measured_statistics(checkpoint, "light", TOKENS, folder)
    assert statistics.cache_ranges is None
    return with_cache_ranges(statistics, checkpoint, special_token_windows(checkpoint, TOKENS), folder)


def built(checkpoint: Checkpoint, name: str, folder: Path) -> Bundle:
    recipe = with_kv_cache(recipe_named(name), "int8")
    return build(checkpoint, recipe, folder / name, statistics=learned(checkpoint, folder / "cache"))


def scales_of(bundle: Bundle) -> dict[str, NDArray[np.float32]]:
    """Return the scales in the graph, by the names of the caches that they belong to: `0.key`."""
    model = onnx.load(bundle.file("model.onnx"))
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            for past, scales in ((3, 12), (4, 13)):
                found[node.input[past].removeprefix("past_key_values.")] = constants[node.input[scales]]
    return found


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_it_holds_the_keys_and_values_of_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    import torch
    import transformers

    folder = write_tiny(tmp_path / "checkpoint", **changes)
    model = transformers.Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        expected = model(torch.from_numpy(TOKENS), use_cache=True).past_key_values
    bundle = built(open_checkpoint(folder), "onnx-fp16", tmp_path)
    scales = scales_of(bundle)
    with open_session(bundle) as session:
        session.score(TOKENS[0])
        stored = {name: cache.numpy()[0].copy() for name, cache in session._caches.items()}
    assert {codes.dtype for codes in stored.values()} == {np.dtype(np.int8)}
    seen = 0
    for layer in range(model.config.num_hidden_layers):
        held = expected.layers[layer]
        before = 0 if layer == 0 else 0.12  # what the cache of earlier layers has changed
        for kind, wanted in (("key", held.keys[0].numpy()), ("value", held.values[0].numpy())):
            last = wanted.shape[1]  # transformers drops what is behind the window
            codes = stored[f"{layer}.{kind}"][:, TOKENS.size - last : TOKENS.size].astype(np.float32)
            steps = scales[f"{layer}.{kind}"].reshape(len(wanted), 1, -1)
            np.testing.assert_array_less(np.abs(codes * steps - wanted), 0.55 * steps + 0.004 * np.abs(wanted) + before)
            assert np.abs(codes).max() <= 127
            seen += 1
    assert seen == 2 * len(expected.layers)


RARE = 314  # a special token that no calibration text has


def write_with_a_rare_token(folder: Path) -> Path:
    """Write a checkpoint in which the first value of the first layer is far larger for one special token."""
    tiny = Tiny(context=64)
    path, config = write_tiny(folder, tiny), tiny.config()
    weights = random_weights(config)
    values = weights["model.layers.0.self_attn.qkv_proj.weight"][-config["hidden_size"] // 2 :]
    weights["model.embed_tokens.weight"][RARE] = 3 * values[0] / np.linalg.norm(values[0])
    write_weights(path, weights)
    return path


@pytest.mark.parametrize("before", [0, 20])
def test_special_tokens_that_the_text_does_not_have_are_not_clipped(tmp_path: Path, before: int) -> None:
    import torch
    import transformers

    folder = write_with_a_rare_token(tmp_path / "checkpoint")
    checkpoint, settings, place = open_checkpoint(folder), CalibrationSettings(), tmp_path / "bundle"
    assert RARE not in calibration_windows(checkpoint, settings, "light")
    request = BuildRequest.from_checkpoint(checkpoint, with_kv_cache(recipe_named("onnx-fp16"), "int8"), 64)
    ready, _ = calibrate_requests({place: request}, {place: "light"}, settings, BuildCache(tmp_path / "home"))
    bundle = build(checkpoint, request.recipe, place, context_length=64, statistics=ready[place].statistics)
    tokens = np.append(TOKENS[0, :before], RARE)
    with open_session(bundle) as session:
        session.score(tokens)
        codes = session._caches["0.value"].numpy()[0, :, before].astype(np.float32)
    model = transformers.Phi3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(tokens[None]), use_cache=True).past_key_values.layers[0].values[0, :, -1]
    steps = scales_of(bundle)["0.value"].reshape(codes.shape)
    assert np.abs(wanted.numpy()).max() > 5
    np.testing.assert_array_less(np.abs(codes * steps - wanted.numpy()), 0.55 * steps + 0.004 * np.abs(wanted.numpy()))


def test_logits_stay_close_and_steps_go_on_where_a_prompt_ends(tiny: Checkpoint, tmp_path: Path) -> None:
    plain = build(tiny, recipe_named("onnx-fp16"), tmp_path / "plain")
    with open_session(plain) as session:
        expected = session.score(TOKENS[0])
    bundle = built(tiny, "onnx-fp16", tmp_path)
    check_requirements(bundle)
    with open_session(bundle) as session:
        found = session.score(TOKENS[0])
        session.prefill(TOKENS[0, :-1])
        stepped = session.step(int(TOKENS[0, -1]))
        after = [int(stepped.argmax())]
        for _ in range(3):
            after.append(int(session.step(after[-1]).argmax()))
    assert 1e-4 < np.abs(found - expected).max() < 0.1 * expected.std()
    np.testing.assert_allclose(stepped, found[-1], atol=0.05 * expected.std())
    stops = bundle.manifest.generation.stop_token_ids
    in_genai = [*generate_tokens(bundle, [int(token) for token in TOKENS[0]], len(after))]
    assert in_genai == after[: next((at for at, token in enumerate(after) if token in stops), None)]


@pytest.mark.parametrize("name", ["onnx-fp16", "onnx-int4"])
def test_sizes_and_requirements_are_known_before(tiny: Checkpoint, tmp_path: Path, name: str) -> None:
    recipe = with_kv_cache(recipe_named(name), "int8")
    context = tiny.architecture.context_length
    sizes = artifact_sizes(BuildRequest.from_checkpoint(tiny, recipe, context))
    bundle = built(tiny, name, tmp_path)
    assert sizes == {file: bundle.file(file).stat().st_size for file in sizes}
    assert sizes["model.onnx.data"] == data_bytes(tiny.architecture, recipe, context)
    assert bundle.manifest.recipe.kv_cache == "int8"
    assert bundle.manifest.requires is not None
    assert set(bundle.manifest.requires.features) == expected_features(tiny.architecture, recipe, context)
    assert "onnx/operator/GroupQueryAttention/int8" in bundle.manifest.requires.features


def test_an_element_that_is_always_zero_has_a_scale() -> None:
    found = cache_scales(np.array([0, 1e-45, 127, 2.54], np.float32))
    np.testing.assert_allclose(found, [1, 1, MARGIN, 0.02 * MARGIN], rtol=1e-6)


def test_what_can_not_be_stored_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    recipe = with_kv_cache(recipe_named("onnx-int4"), "int8")
    with pytest.raises(RecipeError, match="needs to know how large keys and values become") as caught:
        build(tiny, recipe, tmp_path / "none")
    assert 'choose calibration "light"' in caught.value.fix
    statistics = learned(tiny, tmp_path / "cache")
    assert statistics.cache_ranges is not None
    overflowing = statistics.cache_ranges.copy()
    overflowing[1, 3] = np.inf
    statistics = replace(statistics, cache_ranges=overflowing)
    with pytest.raises(CalibrationError, match="layer 1 has keys or values that are infinite"):
        build(tiny, recipe, tmp_path / "infinite", statistics=statistics)
    sparse = open_checkpoint(write_tiny(tmp_path / "sparse", family="phi3small"))
    with pytest.raises(UnsupportedModelError, match="SparseAttention, which has floats only") as refused:
        check_kv_cache(sparse.architecture, recipe)
    assert refused.value.fix == "use the default, f32"
    assert not {"none", "infinite"} & {path.name for path in tmp_path.iterdir()}
