"""Weights and metadata of `model.gguf`, held to llama.cpp's own quantizer and to the checkpoint."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.gguf.convert import _MOSTLY
from registry.bundle.folder import verify
from targets.config_json import read_architecture
from targets.errors import CheckpointError, UnsupportedModelError
from targets.gguf_names import gguf_name
from targets.recipes import RECIPES as RECIPES_BY_NAME
from targets.recipes import recipe_named
from targets.storage.gguf import CANDIDATES, plan
from tests.support import llama_cpp as llamacpp
from tests.support.cases import cases
from tests.support.checkpoints import SPECIAL, Tiny, edit_json, random_weights, write_tiny, write_weights

EVERY = os.environ.get("ACCURACY") == "all"
RECIPES = tuple(name for name, recipe in RECIPES_BY_NAME.items() if recipe.format == "gguf")
SHAPES = {
    "rows of 64: no K-quant fits": Tiny(hidden=64, layers=3),
    "rows of 64, tied": Tiny(hidden=64, layers=3, tied=True),
    "rows of 256": Tiny(hidden=256, intermediate=512, layers=8, heads=8),
    "rows of 256, tied": Tiny(hidden=256, intermediate=512, layers=2, heads=8, tied=True),
    "down's rows alone don't fit": Tiny(hidden=256, intermediate=320, layers=4, heads=8),
    "rows of 80: no block fits": Tiny(hidden=80, intermediate=80, layers=2, heads=5, kv_heads=5),
    "llama": Tiny(family="llama", hidden=256, intermediate=512, layers=8, heads=8, kv_heads=4),
    "llama, four query heads a key head, tied": Tiny(
        family="llama", hidden=256, intermediate=512, layers=5, heads=8, kv_heads=2, tied=True
    ),
    "llama's 70B": Tiny(family="llama", hidden=256, intermediate=256, layers=80, heads=4, kv_heads=1),
    "rows of 80, tied": Tiny(hidden=80, intermediate=256, layers=2, heads=5, kv_heads=5, tied=True),
}
FURTHER = (
    "rows of 256",
    "llama, four query heads a key head, tied",
    "llama's 70B",
    "rows of 80, tied",
)


# Bytes of all types in blocks of 256 and of 32; of other shapes, those of one mixture.
IN_ALL_RECIPES = ("rows of 256, tied", "rows of 64, tied")


@pytest.mark.parametrize("shape", cases({name: name for name in SHAPES}, FURTHER))
def test_types_and_bytes_are_those_of_llama_quantize(shape: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", SHAPES[shape]))
    source = llamacpp.write_float32(checkpoint, tmp_path / "f32.gguf")
    for recipe in RECIPES if EVERY or shape in IN_ALL_RECIPES else ("gguf-q4_k_m",):
        bundle = build(checkpoint, recipe_named(recipe), tmp_path / recipe)
        theirs = llamacpp.quantize(source, tmp_path / f"{recipe}.gguf", llamacpp.FILE_TYPES[recipe])
        ours, expected = llamacpp.tensors(bundle.file("model.gguf")), llamacpp.tensors(theirs)
        assert {name: entry[:2] for name, entry in ours.items()} == {n: entry[:2] for n, entry in expected.items()}
        assert ours == expected


@pytest.mark.parametrize("tiny", SHAPES.values(), ids=SHAPES.keys())
def test_the_types_of_every_recipe_are_llama_quantizes(tiny: Tiny, tmp_path: Path) -> None:
    _types(tiny, tmp_path)


@pytest.mark.parametrize(
    "layers", [1, 7, 9, *(pytest.param(n, marks=pytest.mark.every_case) for n in (2, 15, 16, 24, 32, 40))]
)
def test_the_mixtures_are_llama_quantizes_at_every_depth(layers: int, tmp_path: Path) -> None:
    _types(Tiny(hidden=256, intermediate=256, heads=4, layers=layers), tmp_path)


@pytest.mark.parametrize("family", ["phi3", "llama"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_mixtures_are_llama_quantizes_however_widely_keys_are_shared(
    family: str, kv_heads: int, tmp_path: Path
) -> None:
    types = _types(Tiny(family=family, hidden=256, intermediate=256, heads=4, kv_heads=kv_heads, layers=9), tmp_path)
    of_values = {kind for name, kind in types["gguf-iq4_nl"].items() if "attn" in name}
    assert ("Q5_K" in of_values) == (kv_heads == 1)


@pytest.mark.parametrize(
    ("changes", "five_bits"),
    [
        ({"family": "llama"}, "Q5_K"),
        ({"family": "llama", "layers": 79}, None),
        pytest.param({"family": "llama", "hidden": 96}, "Q5_1", marks=pytest.mark.every_case),
        pytest.param({"family": "llama", "kv_heads": 4}, None, marks=pytest.mark.every_case),
        pytest.param({"family": "phi3"}, None, marks=pytest.mark.every_case),
    ],
)
def test_values_of_the_70b_get_five_bits_as_llama_quantize_gives_them(
    changes: dict[str, Any], five_bits: str | None, tmp_path: Path
) -> None:
    tiny = replace(Tiny(hidden=256, intermediate=32, heads=4, layers=80), **changes)
    kinds = _types(tiny, tmp_path)["gguf-q4_k_m"]
    assert {kind for kind in kinds.values() if kind.startswith("Q5")} - {"Q5_0"} == {five_bits} - {None}


def _types(tiny: Tiny, folder: Path) -> dict[str, dict[str, str]]:
    """Compare each recipe's plan with what llama-quantize chooses. Returns types by recipe and tensor."""
    architecture, types = read_architecture(tiny.config()), {}
    source = llamacpp.write_hollow(architecture, folder / "f32.gguf")
    for recipe in RECIPES:
        planned = {gguf_name(weight.name): weight.storage for weight in plan(architecture, recipe_named(recipe))}
        assert planned == llamacpp.chosen_types(source, llamacpp.FILE_TYPES[recipe])
        types[recipe] = planned
    return types


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_plan_is_what_is_in_the_file(recipe: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", hidden=256, layers=3, intermediate=160))
    bundle = build(checkpoint, recipe_named(recipe), tmp_path / "bundle")

    planned = plan(checkpoint.architecture, recipe_named(recipe))
    found = llamacpp.tensors(bundle.file("model.gguf"))
    assert {gguf_name(w.name): (w.storage, w.bytes) for w in planned} == {
        name: (kind, len(raw)) for name, (kind, _, raw) in found.items()
    }
    weights = bundle.manifest.recipe.weights
    assert sum(entry.bytes for entry in weights) == sum(len(raw) for _, _, raw in found.values())
    assert sum(entry.tensors for entry in weights) == len(found)


def test_two_builds_give_the_same_bytes_with_one_tensor_at_a_time(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", shards=3))
    first = build(checkpoint, recipe_named("gguf-q4_k_m"), tmp_path / "first")
    second = build(checkpoint, recipe_named("gguf-q4_k_m"), tmp_path / "second")
    assert first.digest == second.digest
    verify(second)


def test_memory_holds_few_tensors_never_the_model(tmp_path: Path) -> None:
    import tracemalloc

    folder = write_tiny(tmp_path / "checkpoint", hidden=256, intermediate=1024, layers=12, heads=4)
    checkpoint = open_checkpoint(folder)
    largest = 2 * 1024 * 256 * 4  # bytes of gate_up in float32
    model = checkpoint.architecture.parameter_count * 4
    assert model > 12 * largest
    build(checkpoint, recipe_named("gguf-q4_k_m"), tmp_path / "first")  # imports and ggml's tables are not counted
    tracemalloc.start()
    build(checkpoint, recipe_named("gguf-q4_k_m"), tmp_path / "second")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * largest


def test_metadata_says_what_llama_cpps_converter_says(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", original_context=256, window=100)
    bundle = build(open_checkpoint(folder), recipe_named("gguf-q8_0"), tmp_path / "bundle", context_length=256)
    found = llamacpp.metadata(bundle.file("model.gguf"))
    expected = {
        "general.architecture": "phi3",
        "general.file_type": 7,
        "phi3.context_length": 512,
        "phi3.rope.scaling.original_context_length": 256,
        "phi3.embedding_length": 64,
        "phi3.feed_forward_length": 128,
        "phi3.block_count": 2,
        "phi3.attention.head_count": 4,
        "phi3.attention.head_count_kv": 2,
        "phi3.rope.dimension_count": 16,
        "phi3.rope.freq_base": 10000.0,
        "phi3.attention.sliding_window": 100,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.eos_token_id": SPECIAL["<|endoftext|>"],
        "tokenizer.ggml.bos_token_id": SPECIAL["<|endoftext|>"],
        "tokenizer.ggml.padding_token_id": SPECIAL["<|endoftext|>"],
        "tokenizer.chat_template": open_checkpoint(folder).chat_template,
    }
    assert {key: found[key] for key in expected} == expected
    assert found["phi3.rope.scaling.attn_factor"] == pytest.approx(1.0606601717798212)  # sqrt(1 + ln 2 / ln 256)
    assert found["phi3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    factors = {name for name in llamacpp.tensors(bundle.file("model.gguf")) if name.startswith("rope_factors")}
    assert factors == {"rope_factors_long.weight", "rope_factors_short.weight"}


def test_a_file_with_chosen_types_is_named_after_most_of_its_matrices(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint"))
    names = [name for name, shape in checkpoint.architecture.tensor_shapes().items() if len(shape) == 2]
    types = tuple((name, "Q5_1" if number % 3 else "Q8_0") for number, name in enumerate(names))
    bundle = build(checkpoint, replace(recipe_named("gguf-q4_0"), types=types), tmp_path / "bundle")
    assert llamacpp.metadata(bundle.file("model.gguf"))["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q5_1


@pytest.mark.parametrize("kind", [*CANDIDATES, "F16"])
def test_file_types_are_the_gguf_librarys(kind: str) -> None:
    name = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}.get(kind, kind)
    assert _MOSTLY[kind] == gguf.LlamaFileType[f"MOSTLY_{name}"]


def test_fallbacks_are_noted_with_counts(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", hidden=64, layers=2))
    notes = build(checkpoint, recipe_named("gguf-q4_k_m"), tmp_path / "k").manifest.recipe.notes
    assert any("7 of 10 matrices" in note and "Q5_0 in place of Q4_K" in note for note in notes)
    assert any("3 of 10 matrices" in note and "Q8_0 in place of Q6_K" in note for note in notes)
    assert build(checkpoint, recipe_named("gguf-q8_0"), tmp_path / "q").manifest.recipe.notes == []


def test_the_window_bounds_the_exact_context(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", window=100))
    manifest = build(checkpoint, recipe_named("gguf-q8_0"), tmp_path / "long").manifest
    assert (manifest.model.context_length, manifest.model.exact_context_length) == (512, 100)
    assert any("sliding window" in note for note in manifest.recipe.notes)
    manifest = build(checkpoint, recipe_named("gguf-q8_0"), tmp_path / "short", context_length=64).manifest
    assert manifest.model.exact_context_length == 64
    assert not any("sliding window" in note for note in manifest.recipe.notes)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_values_that_no_block_can_hold_leave_nothing_behind(recipe: str, value: float, tmp_path: Path) -> None:
    tiny = Tiny()
    folder = write_tiny(tmp_path / "checkpoint", tiny)
    weights = random_weights(tiny.config())
    weights["model.layers.1.mlp.down_proj.weight"][5, 7] = value
    write_weights(folder, weights, dtype="F32")
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.down_proj\.weight"):
        build(open_checkpoint(folder), recipe_named(recipe), tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize(
    ("key", "number"),
    [("rope_theta", 1e300), ("rms_norm_eps", 1e-300), ("short_factor", 1e300), ("long_factor", 1e-38)],
)
def test_a_number_out_of_float32s_range_is_refused(tmp_path: Path, key: str, number: float) -> None:
    """It would be infinite or 0 in the file; with some keys, the gguf library's own error ended the build."""
    folder = write_tiny(tmp_path / "checkpoint", original_context=256)
    config = json.loads((folder / "config.json").read_bytes())
    if key in config["rope_scaling"]:
        config["rope_scaling"][key][0] = number
    else:
        config[key] = number
    edit_json(folder / "config.json", **config)
    with pytest.raises(UnsupportedModelError, match="out of float32's range"):
        build(open_checkpoint(folder), recipe_named("gguf-f16"), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
