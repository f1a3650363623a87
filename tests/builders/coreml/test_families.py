"""Llama and Phi-3-small as Core ML, evaluated, against the float32 reference: prefill, steps, longrope's edge."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.reference import FloatReference
from builders.runtime.coreml.session import open_session
from registry.bundle.folder import Bundle
from targets.errors import UnsupportedModelError
from targets.recipes import recipe_named
from tests.support.checkpoints import edit_config, write_json, write_tiny
from tests.support.parity import some_tokens
from tests.support.small import RELEASED_BLOCKS, write_telling

TOLERANCE = 0.03
EDGE = 64
every_case = pytest.mark.every_case


def bundle_of(folder: Path, recipe: str, config: dict[str, Any], **changes: Any) -> Bundle:
    path = write_telling(folder / "checkpoint", config, **{"dtype": "F16", **changes})
    checkpoint = open_checkpoint(path)
    length = checkpoint.architecture.context_length
    return build(checkpoint, recipe_named(recipe), folder / "bundle", context_length=length)


def reference(folder: Path, tokens: np.ndarray) -> np.ndarray:
    asked = FloatReference(open_checkpoint(folder / "checkpoint"))
    return asked.logits(asked.hidden(tokens[None])[0])


def gap(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference; of ids that the reference rules out, that they are ruled out here."""
    shown = np.isfinite(expected[0])
    assert (found[:, ~shown] < -1e4).all()
    return float(np.abs(found[:, shown] - expected[:, shown]).max())


@pytest.mark.parametrize(
    ("length", "config", "changes"),
    [
        pytest.param(60, {}, {"family": "llama"}, id="llama"),
        pytest.param(
            60,
            {},
            {"family": "llama", "tied": True, "kv_heads": 4},
            id="llama, tied, as many key heads",
            marks=every_case,
        ),
        pytest.param(60, {"rope_theta": 5e5}, {"family": "llama"}, id="llama, rotated as Llama-3", marks=every_case),
        pytest.param(30, {}, {"family": "phi3small"}, id="small, dense so far"),
        pytest.param(200, {}, {"family": "phi3small"}, id="small, sparse"),
        pytest.param(200, {}, {"family": "phi3small", "kv_heads": 4}, id="small, as many key heads", marks=every_case),
        pytest.param(
            200,
            {"dense_attention_every_n_layers": 3},
            {"family": "phi3small", "layers": 3},
            id="small, every third layer is dense",
            marks=every_case,
        ),
        pytest.param(
            1100, RELEASED_BLOCKS, {"family": "phi3small", "context": 1200, "layers": 1}, id="small, blocks as released"
        ),
        pytest.param(
            60, {}, {"family": "phi3small", "context": 60}, id="small, a context of no whole blocks", marks=every_case
        ),
        pytest.param(
            EDGE,
            {},
            {"family": "phi3small", "original_context": EDGE},
            id="small, up to longrope's edge",
            marks=every_case,
        ),
        pytest.param(3 * EDGE, {}, {"family": "phi3small", "original_context": EDGE}, id="small, past longrope's edge"),
        pytest.param(60, {"gegelu_limit": 0.2}, {"family": "phi3small"}, id="small, the gate's limits are met"),
    ],
)
def test_fp16_agrees_with_the_reference(
    tmp_path: Path, length: int, config: dict[str, Any], changes: dict[str, Any]
) -> None:
    bundle, tokens = bundle_of(tmp_path, "coreml-fp16", config, **changes), some_tokens(length)
    expected = reference(tmp_path, tokens)
    assert expected[np.isfinite(expected)].std() > 0.1
    with open_session(bundle) as session:
        assert gap(session.score(tokens), expected) < TOLERANCE


@pytest.mark.parametrize("recipe", ["coreml-fp16", "coreml-int4"])
def test_steps_over_sparse_layers_give_what_prefill_gives(tmp_path: Path, recipe: str) -> None:
    bundle, tokens = bundle_of(tmp_path, recipe, {}, family="phi3small"), some_tokens(150)
    with open_session(bundle) as session:
        whole = session.score(tokens)
        stepped = [session.prefill(tokens[:40]), *(session.step(int(token)) for token in tokens[40:])]
    assert np.abs(np.stack(stepped) - whole[39:]).max() < TOLERANCE


def test_a_small_that_grows_past_longropes_edge_answers_like_the_reference(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path, "coreml-fp16", {}, family="phi3small", original_context=EDGE)
    tokens = some_tokens(EDGE + 4)
    with open_session(bundle) as session:
        session.prefill(tokens[: EDGE - 2])
        for count in range(EDGE - 1, len(tokens) + 1):
            logits = session.step(int(tokens[count - 1]))
            assert gap(logits[None], reference(tmp_path, tokens[:count])[-1:]) < TOLERANCE, f"{count} tokens"


def test_sparsity_is_felt(tmp_path: Path) -> None:
    """What the tolerance must tell apart: another stride, past the local blocks only."""
    tokens = some_tokens(200)
    logits = []
    for name, config in (("3", {}), ("5", {"blocksparse_vert_stride": 5})):
        with open_session(bundle_of(tmp_path / name, "coreml-fp16", config, family="phi3small")) as session:
            logits.append(session.score(tokens))
    gaps = np.abs(logits[0] - logits[1]).max(-1)
    assert gaps[:32].max() == 0  # two local blocks of 16
    assert gaps[32:].max() > 3 * TOLERANCE


@pytest.mark.parametrize("family", ["llama", "phi3small"])
def test_int4_is_close(tmp_path: Path, family: str) -> None:
    bundle, tokens = bundle_of(tmp_path, "coreml-int4", {}, family=family), some_tokens(100)
    expected = reference(tmp_path, tokens)
    with open_session(bundle) as session:
        found = session.score(tokens)
    shown = np.isfinite(expected)
    assert np.corrcoef(found[shown], expected[shown])[0, 1] > 0.95
    assert {weight.storage for weight in bundle.manifest.recipe.weights} >= {"float32", "uint4 block 32"}


@pytest.mark.parametrize("recipe", ["coreml-fp16", "coreml-int4"])
@pytest.mark.parametrize("family", ["llama", "phi3small"])
def test_coremltools_loads_the_package(tmp_path: Path, family: str, recipe: str) -> None:
    import coremltools as ct

    bundle = bundle_of(tmp_path, recipe, {}, family=family)
    specification = ct.models.MLModel(str(bundle.file("model.mlpackage")), skip_model_load=True).get_spec()
    assert specification.specificationVersion == ct.target.iOS18.value
    assert [entry.name for entry in specification.description.input] == ["inputIds", "causalMask"]
    assert [entry.name for entry in specification.description.state] == ["keyCache", "valueCache"]


def test_the_older_spelling_of_longrope_gives_the_same_package(tmp_path: Path) -> None:
    """`su` of 2024-04, `longrope` of 2024-07."""
    packages = []
    for spelling in ("su", "longrope"):
        folder = write_tiny(tmp_path / spelling / "checkpoint", original_context=EDGE)
        config = json.loads((folder / "config.json").read_bytes())
        config["rope_scaling"]["type"] = spelling
        write_json(folder / "config.json", config)
        bundle = build(open_checkpoint(folder), recipe_named("coreml-int4"), tmp_path / spelling / "bundle")
        packages.append({file.path: file.sha256 for file in bundle.manifest.files if "mlpackage" in file.path})
    assert packages[0] == packages[1] != {}


def test_bytes_do_not_depend_on_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    digests = set()
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        digests.add(build(open_checkpoint(folder), recipe_named("coreml-int4"), tmp_path / str(count)).digest)
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("long_mscale", 1e6),
        ("short_mscale", 1e-9),
        ("mup_width_multiplier", 1e-5),
        ("mup_attn_multiplier", 1e9),
        ("gegelu_limit", 1e-9),
    ],
)
def test_a_number_out_of_float16s_range_is_refused(tmp_path: Path, key: str, number: float) -> None:
    """It was stored as infinity, 0 or with few digits."""
    folder = write_tiny(tmp_path / "checkpoint", family="phi3small", original_context=64)
    edit_config(folder, key, number)
    with pytest.raises(UnsupportedModelError, match="out of float16's range"):
        build(open_checkpoint(folder), recipe_named("coreml-fp16"), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
