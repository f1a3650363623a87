"""The graphs against transformers in float32: shapes, window, both sides of longrope's edge, prefill and steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.optimum_export import export
from builders.runtime.onnx_session import OnnxSession, open_session
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError
from targets.recipes import recipe_named
from tests.support.cases import cases
from tests.support.checkpoints import write_json, write_tiny
from tests.support.exported import exported_logits
from tests.support.parity import CASES, EDGE, FP16_TOLERANCE, FURTHER, LIKE_PHI_4_MINI, some_tokens, tiny_bundle
from tests.support.transformers_models import transformers_logits

STEPPED: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 8},
    "tied": {"tied": True},
    "Phi-4-mini": LIKE_PHI_4_MINI,
}
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|transformers|onnx|google).*"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


@pytest.mark.parametrize(("length", "changes"), cases(CASES, FURTHER))
def test_fp16_agrees_with_transformers(tmp_path: Path, length: int, changes: dict[str, Any]) -> None:
    checkpoint, bundle = tiny_bundle(tmp_path, "onnx-fp16", **changes)
    tokens = some_tokens(length)
    reference = transformers_logits(checkpoint, tokens)
    with open_session(bundle) as session:
        logits = session.score(tokens)
        assert logits.shape == reference.shape
        assert logits.dtype == np.float32
        assert np.abs(logits - reference).max() < FP16_TOLERANCE
        assert np.abs(session.prefill(tokens) - logits[-1]).max() < 1e-5


@pytest.mark.parametrize("recipe", ["onnx-fp16", "onnx-int8", "onnx-int4"])
@pytest.mark.parametrize("changes", cases(STEPPED, ["plain", "tied"]))
def test_steps_give_what_prefill_gives(tmp_path: Path, recipe: str, changes: dict[str, Any]) -> None:
    _, bundle = tiny_bundle(tmp_path, recipe, **changes)
    tokens = some_tokens(40)
    with open_session(bundle) as session:
        whole = session.score(tokens)
        stepped = _prefill_and_steps(session, tokens, prefix=5)
        # int4: activations are rounded to 8 bits a block, so a last bit of float32 can move a logit a little.
        assert np.abs(stepped - whole[4:]).max() < (FP16_TOLERANCE if recipe == "onnx-fp16" else 0.1)
        assert np.abs(session.score(tokens) - whole).max() < 1e-5  # from an empty cache, whatever came before


# The two spellings of 2024-04 and 2024-07, with heads as mini (each its own key) and as medium (shared).
@pytest.mark.parametrize("spelling", ["su", pytest.param("longrope", marks=pytest.mark.every_case)])
@pytest.mark.parametrize("shape", [{"kv_heads": 4}, {}, LIKE_PHI_4_MINI], ids=["mini", "medium", "Phi-4-mini"])
def test_generation_across_the_longrope_edge_is_read_again_with_the_long_factors(
    tmp_path: Path, spelling: str, shape: dict[str, Any]
) -> None:
    checkpoint, bundle = _spelled(tmp_path, "onnx-fp16", spelling, **shape)
    tokens = some_tokens(EDGE + 4)
    with open_session(bundle) as session:
        stepped = _prefill_and_steps(session, tokens, prefix=EDGE - 4)
    for end in range(EDGE - 4, EDGE + 5):
        reference = transformers_logits(checkpoint, tokens[:end])[-1]
        assert np.abs(stepped[end - (EDGE - 4)] - reference).max() < FP16_TOLERANCE


def test_transformers_generate_crosses_the_longrope_edge_alike(tmp_path: Path) -> None:
    import torch
    import transformers

    checkpoint, bundle = tiny_bundle(tmp_path, "onnx-fp16", original_context=EDGE)
    prompt = some_tokens(EDGE - 4)
    model = transformers.Phi3ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    generated = model.generate(
        torch.from_numpy(prompt)[None],
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=[-1],  # none ends it
        output_logits=True,
        return_dict_in_generate=True,
    )
    with open_session(bundle) as session:
        stepped = _prefill_and_steps(session, generated.sequences[0].numpy()[:-1], prefix=len(prompt))
    assert np.abs(stepped - torch.cat(generated.logits).numpy()).max() < FP16_TOLERANCE


@pytest.mark.parametrize("recipe", ["onnx-fp16", "onnx-int4"])
def test_both_spellings_of_longrope_give_the_same_artifact(tmp_path: Path, recipe: str) -> None:
    bundles = [_spelled(tmp_path / spelling, recipe, spelling)[1] for spelling in ("su", "longrope")]
    for name in ("model.onnx", "model.onnx.data", "genai_config.json"):
        assert bundles[0].file(name).read_bytes() == bundles[1].file(name).read_bytes()


def test_int4_crosses_the_longrope_edge_as_it_reads_a_long_prompt(tmp_path: Path) -> None:
    checkpoint, bundle = tiny_bundle(tmp_path, "onnx-int4", original_context=EDGE)
    tokens = some_tokens(EDGE + 4)
    with open_session(bundle) as session:
        stepped = _prefill_and_steps(session, tokens, prefix=EDGE - 4)
        whole = session.score(tokens)
    assert np.abs(stepped[5:] - whole[EDGE:]).max() < 0.1
    reference = transformers_logits(checkpoint, tokens)[EDGE:]
    assert np.corrcoef(stepped[5:].ravel(), reference.ravel())[0, 1] > 0.9


def test_int4_follows_the_reference(tmp_path: Path) -> None:
    # Random weights are the hardest to quantize: a likeness is all that can be asked, and noise would not reach it.
    checkpoint, bundle = tiny_bundle(tmp_path, "onnx-int4")
    tokens = some_tokens(60)
    reference = transformers_logits(checkpoint, tokens)
    with open_session(bundle) as session:
        logits = session.score(tokens)
    assert np.corrcoef(logits.ravel(), reference.ravel())[0, 1] > 0.95


@pytest.mark.every_case
def test_agrees_with_optimums_export(tmp_path: Path) -> None:
    checkpoint, bundle = tiny_bundle(tmp_path, "onnx-fp16")
    tokens = some_tokens(30)
    export(checkpoint, tmp_path / "exported")
    reference = exported_logits(tmp_path / "exported", tokens)
    with open_session(bundle) as session:
        assert np.abs(session.score(tokens) - reference).max() < FP16_TOLERANCE


def test_a_text_past_the_context_is_refused(tmp_path: Path) -> None:
    _, bundle = tiny_bundle(tmp_path, "onnx-int4", context=32)
    with open_session(bundle) as session:
        session.prefill(some_tokens(32))
        with pytest.raises(MeasurementError, match="33 tokens; the bundle takes 1 to 32"):
            session.step(1)


def test_a_damaged_graph_is_a_measurement_error(tmp_path: Path) -> None:
    _, bundle = tiny_bundle(tmp_path, "onnx-int4")
    bundle.file("model.onnx").write_bytes(b"not a graph")
    with pytest.raises(MeasurementError, match="onnxruntime can't load it"):
        open_session(bundle)
    bundle.file("model.onnx").unlink()
    with pytest.raises(MeasurementError, match="onnxruntime can't load it"):
        open_session(Bundle(bundle.path, bundle.manifest))


def _prefill_and_steps(session: OnnxSession, tokens: np.ndarray, *, prefix: int) -> np.ndarray:
    rows = [session.prefill(tokens[:prefix])]
    rows.extend(session.step(int(token)) for token in tokens[prefix:])
    return np.stack(rows)


def _spelled(folder: Path, recipe: str, spelling: str, **changes: Any) -> tuple[Path, Bundle]:
    """Build a checkpoint of longrope whose config calls it as given."""
    checkpoint = write_tiny(folder / "checkpoint", dtype="F16", original_context=EDGE, **changes)
    config = json.loads((checkpoint / "config.json").read_bytes())
    config["rope_scaling"]["type"] = spelling
    write_json(checkpoint / "config.json", config)
    return checkpoint, build(open_checkpoint(checkpoint), recipe_named(recipe), folder / "bundle")
