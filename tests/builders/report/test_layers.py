"""Which layers' weights are others: found from real bundles of checkpoints in which one layer was changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.report.at_a_glance import at_a_glance
from builders.report.changes import origin_changes
from builders.report.content import CellContent
from builders.report.findings import findings
from builders.report.layers import has_same_weights, layers_in_words
from devtools.bundles import make_bundle
from registry.bundle.manifest import CalibrationEntry, FileEntry
from registry.diff import layers
from registry.diff.compare import Side, folder_side
from registry.diff.layers import EMBEDDING, HEAD, LAST_NORM, LayerChanges, layer_changes
from targets.recipes import recipe_named
from tests.support.checkpoints import Tiny, edit_json, random_weights, write_tiny, write_weights

TINY = Tiny(layers=3)
EMBEDDED = "model.embed_tokens.weight"
UP = "model.layers.1.mlp.gate_up_proj.weight"
RECIPES = ("gguf-f16", "gguf-q4_0", "onnx-int4", "onnx-fp16", "coreml-fp16", "coreml-int4", "coreml-palettized4")


def _bundle(folder: Path, recipe: str, changes: Mapping[str, float], **config: object) -> Path:
    checkpoint = write_tiny(folder / "checkpoint", TINY)
    if config:
        edit_json(checkpoint / "config.json", **config)
    weights = random_weights(TINY.config())
    for name, factor in changes.items():
        weights[name] = weights[name] * np.float32(factor)
    write_weights(checkpoint, weights)
    return build(open_checkpoint(checkpoint), recipe_named(recipe), folder / "bundle").path


def _changes(tmp_path: Path, recipe: str, changes: Mapping[str, float], **config: object) -> LayerChanges | None:
    before = folder_side(_bundle(tmp_path / "before", recipe, {}))
    return layer_changes(before, folder_side(_bundle(tmp_path / "after", recipe, changes, **config)))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_layer_that_was_changed_is_named(tmp_path: Path, recipe: str) -> None:
    assert _changes(tmp_path, recipe, {UP: 1.5}) == LayerChanges((0, 2), (1,))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_changed_head_is_of_no_layer(tmp_path: Path, recipe: str) -> None:
    assert _changes(tmp_path, recipe, {"lm_head.weight": 1.5}) == LayerChanges((0, 1, 2), (), rest=(HEAD,))


@pytest.mark.parametrize("recipe", ["gguf-q8_0", "onnx-fp16", "coreml-fp16"])
def test_a_changed_norm_is_no_changed_embedding(tmp_path: Path, recipe: str) -> None:
    assert _changes(tmp_path, recipe, {"model.norm.weight": 1.5}) == LayerChanges((0, 1, 2), (), rest=(LAST_NORM,))


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [("gguf-q8_0", LayerChanges((0, 1, 2), (), head_of_one=True)), ("onnx-fp16", None)],
)
def test_a_head_of_the_same_values_as_the_embedding_is_said_to_be_apart(
    tmp_path: Path, recipe: str, expected: LayerChanges | None
) -> None:
    """In ONNX the last norm ends the file, or is padded for the head that follows: what its chunk says is unknown."""
    tied = replace(TINY, tied=True)
    weights = random_weights(tied.config())
    head = {"lm_head.weight": weights[EMBEDDED]}
    apart = _built(tmp_path / "apart", recipe, TINY, weights | head)
    assert layer_changes(apart, _built(tmp_path / "tied", recipe, tied, weights)) == expected


def test_where_the_embedding_is_the_head_both_change(tmp_path: Path) -> None:
    tied = replace(TINY, tied=True)
    weights = random_weights(tied.config())
    other = weights | {EMBEDDED: 1.5 * weights[EMBEDDED]}
    sides = (_built(tmp_path / name, "gguf-f16", tied, one) for name, one in (("one", weights), ("other", other)))
    assert layer_changes(*sides) == LayerChanges((0, 1, 2), (), rest=(EMBEDDING, HEAD))


@pytest.mark.parametrize("recipe", ["gguf-q8_0", "onnx-fp16"])
def test_where_longrope_begins_is_no_weight(tmp_path: Path, recipe: str) -> None:
    """ONNX has it as a constant of its own: a checkpoint was said to be worse, whose configuration alone is."""
    weights = random_weights(TINY.config())
    sides = (_built(tmp_path / str(at), recipe, replace(TINY, original_context=at), weights) for at in (128, 64))
    assert layer_changes(*sides) == LayerChanges((0, 1, 2), ())


@pytest.mark.parametrize("recipe", ["gguf-q8_0", "onnx-fp16"])
def test_a_context_on_the_other_side_of_longropes_edge_changes_no_weight(tmp_path: Path, recipe: str) -> None:
    """The graph for the shorter one chooses between no factors, and has no constants for that."""
    weights, tiny = random_weights(TINY.config()), replace(TINY, original_context=256)
    sides = (_built(tmp_path / str(length), recipe, tiny, weights, length) for length in (512, 256))
    assert layer_changes(*sides) == LayerChanges((0, 1, 2), ())


def _built(
    folder: Path, recipe: str, tiny: Tiny, weights: dict[str, np.ndarray], context_length: int | None = None
) -> Side:
    checkpoint = write_tiny(folder / "checkpoint", tiny)
    write_weights(checkpoint, weights)
    bundle = build(open_checkpoint(checkpoint), recipe_named(recipe), folder / "bundle", context_length=context_length)
    return folder_side(bundle.path)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "config", [{"rms_norm_eps": 1e-4}, {"rope_theta": 50_000.0}], ids=lambda config: next(iter(config))
)
def test_another_configuration_changes_no_weight(tmp_path: Path, recipe: str, config: dict[str, float]) -> None:
    """In GGUF it is in the file of the weights; in ONNX and Core ML a base of rotations makes other tables there."""
    found = _changes(tmp_path, recipe, {}, **config)
    assert found == LayerChanges((0, 1, 2), ())


@pytest.mark.parametrize("recipe", ["onnx-fp16", "coreml-fp16"])
def test_a_changed_constant_that_nobody_knows_makes_everything_unknown(
    tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "_NO_WEIGHTS", re.compile("nothing"))
    assert _changes(tmp_path, recipe, {}, rope_theta=50_000.0) is None


def test_where_core_mls_constants_have_moved_nothing_is_known(tmp_path: Path) -> None:
    """A small one shares its chunk with the number that says where it is."""
    one, other = (
        folder_side(build(open_checkpoint(folder), recipe_named("coreml-fp16"), folder / "b").path)
        for folder in (write_tiny(tmp_path / str(width), Tiny(intermediate=width)) for width in (128, 256))
    )
    assert layer_changes(one, one) is not None
    assert layer_changes(one, other) is None


def test_of_two_formats_nothing_is_known(tmp_path: Path) -> None:
    gguf, onnx = (folder_side(_bundle(tmp_path / recipe, recipe, {})) for recipe in ("gguf-q4_0", "onnx-int4"))
    assert layer_changes(gguf, onnx) is None


@pytest.mark.parametrize(
    ("same", "changed", "rest", "said"),
    [
        (
            range(22),
            range(22, 30),
            (),
            "layers 22 to 29 are others, those of layers 0 to 21 the same; embedding, head",
        ),
        ((*range(9), 10, 12), (9, 11), (), "layers 9, 11 are others, those of layers 0 to 8, 10, 12 the same"),
        (
            range(1, 30),
            (0,),
            (EMBEDDING, HEAD, LAST_NORM),
            "layer 0 are others, those of layers 1 to 29 the same; embedding, head and last norm are others.",
        ),
        ((), range(30), (), "The weights of every layer are others; embedding, head and last norm are the same."),
        (
            range(30),
            (),
            (LAST_NORM,),
            "every layer are the same; last norm is another one, embedding and head are the same.",
        ),
        (range(30), (), (), "Every tensor of the weights is the same, byte for byte."),
    ],
)
def test_layers_are_named_in_ranges(
    other_checkpoint: CellContent, same: range, changed: range, rest: tuple[str, ...], said: str
) -> None:
    found = replace(other_checkpoint, layers=LayerChanges(tuple(same), tuple(changed), rest))
    assert said in layers_in_words(found)
    (look,) = (one for one in findings(found) if one.text.startswith("The checkpoint is another one"))
    assert look.text.endswith(layers_in_words(found))
    (file,) = (one for one in origin_changes(found) if one.what == "largest file")
    assert file.meaning == layers_in_words(found)
    assert has_same_weights(found) == (not rest and not changed)


def test_a_head_that_only_one_of_the_two_has_is_neither_the_same_nor_another(other_checkpoint: CellContent) -> None:
    found = replace(other_checkpoint, layers=LayerChanges((0, 1), (), head_of_one=True))
    assert layers_in_words(found) == (
        "The weights of every layer are the same; only one of the two has a head apart from the embedding, embedding"
        " and last norm are the same."
    )
    assert not has_same_weights(found)


def test_where_all_weights_are_calibrated_again_nothing_is_said(other_checkpoint: CellContent) -> None:
    entry = CalibrationEntry(level="light", text="sha256:" + "e" * 64, tokens=2048)
    recipe = other_checkpoint.candidate.manifest.recipe.model_copy(update={"calibration": entry})
    assert other_checkpoint.baseline is not None
    before, after = (
        replace(side, manifest=side.manifest.model_copy(update={"recipe": recipe}))
        for side in (other_checkpoint.baseline, other_checkpoint.candidate)
    )
    all_others = LayerChanges((), (0, 1))
    found = replace(other_checkpoint, baseline=before, candidate=after, layers=all_others)
    assert layers_in_words(found) == ""
    assert layers_in_words(replace(found, layers=LayerChanges((0,), (1,))))


def test_of_a_file_that_is_no_gguf_nothing_is_known(tmp_path: Path) -> None:
    sides = [folder_side(make_bundle(tmp_path / name, {"model.gguf": name.encode()}).path) for name in ("one", "other")]
    assert layer_changes(*sides) is None


def test_of_a_tensor_that_ends_after_its_file_nothing_is_known(tmp_path: Path) -> None:
    side = folder_side(_bundle(tmp_path, "gguf-f16", {}))
    assert layer_changes(side, side) is not None

    def cut_short(entry: FileEntry) -> FileEntry:
        if not entry.path.endswith(".gguf"):
            return entry
        *chunks, last = entry.chunks
        return entry.model_copy(update={"chunks": (*chunks, last.model_copy(update={"bytes": last.bytes - 64}))})

    files = [cut_short(entry) for entry in side.manifest.files]
    other = replace(side, manifest=side.manifest.model_copy(update={"files": files}))
    assert layer_changes(side, other) is None


def test_a_cell_whose_weights_are_the_same_says_so_at_a_glance(other_checkpoint: CellContent) -> None:
    assert at_a_glance(other_checkpoint) == "another checkpoint, the same recipe"
    found = replace(other_checkpoint, layers=LayerChanges((0, 1), ()))
    assert at_a_glance(found).startswith("weights the same, ")
