"""What a built folder holds: planned bytes, the runtime's config, the same bytes twice, and nothing after bad input."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.conversion import BuildRequest
from builders.onnx import convert, datafile
from builders.onnx.quantize import QuantizedMatrix, dequantize
from builders.reference import FloatReference
from builders.runtime.onnx_generation import generate_tokens
from builders.runtime.onnx_session import open_session
from builders.runtime.onnx_text import open_onnx_text
from builders.tokenizer import read_bundled_tokenizer
from registry.bundle.folder import verify
from registry.files.large_file import LargeFile
from targets.errors import BuildError, CheckpointError, MeasurementError, UnsupportedModelError
from targets.progress import Event, Phase
from targets.recipes import recipe_named
from targets.storage.onnx import CANDIDATES, Blocks, Plain, data_bytes, plan, storage_of
from tests.support.checkpoints import Tiny, random_weights, write_tiny, write_weights
from tests.support.parity import some_tokens, tiny_bundle

RECIPES = ["onnx-fp16", "onnx-int8", "onnx-int4"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("changes", [{}, {"tied": True}, {"original_context": 64}], ids=["plain", "tied", "longrope"])
def test_the_data_file_has_the_planned_bytes(tmp_path: Path, recipe: str, changes: dict[str, object]) -> None:
    checkpoint, bundle = tiny_bundle(tmp_path, recipe, **changes)
    architecture = open_checkpoint(checkpoint).architecture
    context = bundle.manifest.model.context_length
    size = bundle.file("model.onnx.data").stat().st_size
    assert size == data_bytes(architecture, recipe_named(recipe), context)
    weights = plan(architecture, recipe_named(recipe))
    assert sum(entry.bytes for entry in bundle.manifest.recipe.weights) == sum(weight.bytes for weight in weights)
    assert sum(entry.tensors for entry in bundle.manifest.recipe.weights) == len(architecture.tensor_shapes())
    verify(bundle)


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_builds_give_the_same_bytes(tmp_path: Path, recipe: str) -> None:
    checkpoint, first = tiny_bundle(tmp_path, recipe, tied=True)
    second = build(open_checkpoint(checkpoint), recipe_named(recipe), tmp_path / "again")
    assert first.digest == second.digest


@pytest.mark.parametrize("recipe", RECIPES)
def test_phases_count_what_is_stored_and_written(tmp_path: Path, recipe: str) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint"))
    events: list[Event] = []
    request = BuildRequest.from_checkpoint(checkpoint, recipe_named(recipe), 512, events.append)
    (tmp_path / "out").mkdir()
    convert(request, tmp_path / "out")
    worked: Counter[str] = Counter()
    for event in events:
        if isinstance(event, Phase):
            worked[event.name] += event.worked_bytes
    file = (tmp_path / "out" / "model.onnx.data").stat().st_size
    assert file * 0.4 < worked["write"] <= file  # the rest is padding, a large part of so small a file
    work = "transform" if recipe == "onnx-fp16" else "quantize"
    assert worked[work] > 0


@pytest.mark.parametrize("threads", [1, 7])
def test_threads_change_no_byte(tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, first = tiny_bundle(tmp_path, "onnx-int4", layers=3)
    monkeypatch.setattr(datafile, "THREADS", threads)
    assert build(open_checkpoint(checkpoint), recipe_named("onnx-int4"), tmp_path / "again").digest == first.digest


@pytest.mark.parametrize("recipe", ["onnx-int8", "onnx-int4"])
def test_arrays_in_blocks_are_the_checkpoints_matrices(tmp_path: Path, recipe: str) -> None:
    checkpoint, bundle = tiny_bundle(tmp_path, recipe)
    opened = open_checkpoint(checkpoint)
    stored = _stored_arrays(bundle.file("model.onnx"))
    kinds = set()
    for name in opened.architecture.tensor_shapes():
        storage, values = (
            storage_of(name, opened.architecture, recipe_named(recipe)),
            opened.open_tensors().tensor(name),
        )
        if isinstance(storage, Plain):
            assert np.array_equal(stored[name], values)
            continue
        groups = [(len(values), storage)] if isinstance(storage, Blocks) else storage.groups
        names = [name] if isinstance(storage, Blocks) else [f"{name}.{number}" for number in range(len(groups))]
        for part, (rows, blocks) in zip(names, groups, strict=True):
            group, values = values[:rows], values[rows:]
            # An embedding that is no head too is there as a table for look-ups alone: the same bytes in another shape.
            codes = stored[f"{part}.codes"] if f"{part}.codes" in stored else stored[f"{part}.table"]
            codes = codes.reshape(rows, -1, blocks.size * blocks.bits // 8)
            back = dequantize(
                QuantizedMatrix(blocks, codes, stored[f"{part}.scales"], stored.get(f"{part}.zero_points"))
            )
            assert back.shape == group.shape
            assert np.abs(back - group).max() < (np.ptp(group) / 14 if blocks.bits == 4 else np.abs(group).max() / 120)
            kinds.add((name.split(".")[-2], blocks.bits))
        assert len(values) == 0
    if recipe == "onnx-int8":
        assert {bits for _, bits in kinds} == {8}
        assert len(kinds) == 6
    else:
        assert {("qkv_proj", 4), ("qkv_proj", 8), ("down_proj", 4), ("lm_head", 8)} <= kinds


@pytest.mark.parametrize("blocks", CANDIDATES, ids=lambda blocks: blocks.label)
def test_the_runtime_computes_with_every_type_that_a_budget_may_choose(tmp_path: Path, blocks: Blocks) -> None:
    """All matrices in one type, with a table that is embedding and head at once."""
    opened = open_checkpoint(write_tiny(tmp_path / "checkpoint", hidden=128, intermediate=256, tied=True))
    shapes = opened.architecture.tensor_shapes()
    names = [name for name, shape in shapes.items() if len(shape) == 2]
    recipe = replace(recipe_named("onnx-int4"), types=tuple((name, blocks.label) for name in names))
    bundle = build(opened, recipe, tmp_path / "bundle")
    stored, matrices = _stored_arrays(bundle.file("model.onnx")), {}
    for name in names:
        codes, scales, zeros = (stored.get(f"{name}.{part}") for part in ("codes", "scales", "zero_points"))
        assert codes is not None
        assert scales is not None
        matrices[name] = dequantize(QuantizedMatrix(blocks, codes, scales, zeros))
    tokens, reference = some_tokens(40), FloatReference(opened)
    reference.__dict__["_source"] = Replaced(opened, matrices)
    expected = reference.logits(reference.hidden(tokens[None])[0])
    with open_session(bundle) as session:
        found = session.score(tokens)
    # Products round their input to 8 bits a block: a fiftieth of the logits' deviation, a quarter of what 4 bits do.
    assert np.sqrt(np.square(found - expected).mean()) < 0.03 * expected.std()
    assert next(iter(generate_tokens(bundle, [int(token) for token in tokens], 1))) in range(len(found[0]))


class Replaced:
    """A checkpoint's weights with other matrices."""

    def __init__(self, checkpoint: Checkpoint, matrices: dict[str, np.ndarray]) -> None:
        self._source, self._matrices = checkpoint.open_tensors(), matrices
        self.stored_tensor = self._source.stored_tensor

    def tensor(self, name: str) -> np.ndarray:
        return self._matrices[name] if name in self._matrices else self._source.tensor(name)

    def rows(self, name: str, ids: np.ndarray) -> np.ndarray:
        return self._matrices[name][ids]


def test_arrays_lie_at_page_borders_and_the_table_shares_the_heads_bytes(tmp_path: Path) -> None:
    _, bundle = tiny_bundle(tmp_path, "onnx-int4", tied=True)
    model = onnx.load(str(bundle.file("model.onnx")), load_external_data=False)
    places = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.external_data
    }
    assert all(int(place["offset"]) % 4096 == 0 for place in places.values())
    assert places["model.embed_tokens.weight.codes"] == places["model.embed_tokens.weight.table"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("changes", [{}, {"tied": True, "window": 8}, {"original_context": 64}])
def test_genai_runs_the_folder_as_it_is(tmp_path: Path, recipe: str, changes: dict[str, object]) -> None:
    _, bundle = tiny_bundle(tmp_path, recipe, **changes)
    prompt = [int(token) for token in some_tokens(12)]
    stop = set(bundle.manifest.generation.stop_token_ids)
    with open_session(bundle) as session:
        logits, expected = session.prefill(np.asarray(prompt)), []
        while len(expected) < 8 and int(logits.argmax()) not in stop:
            expected.append(int(logits.argmax()))
            logits = session.step(expected[-1])
    assert list(generate_tokens(bundle, prompt, 8)) == expected


def test_genai_reads_the_tokenizer_as_we_do(tmp_path: Path) -> None:
    _, bundle = tiny_bundle(tmp_path, "onnx-int4")
    text = "The cat, in the rain: 東京 123\n\n<|user|>\nthen<|end|>"
    with open_onnx_text(bundle) as engine:
        assert engine.encode(text) == read_bundled_tokenizer(bundle.path).encode(text)


def test_genai_refusing_is_a_measurement_error(tmp_path: Path) -> None:
    _, bundle = tiny_bundle(tmp_path, "onnx-int4")
    bundle.file("genai_config.json").write_text("{}")
    with pytest.raises(MeasurementError, match="onnxruntime-genai"):
        list(generate_tokens(bundle, [1], 1))
    with pytest.raises(MeasurementError, match="onnxruntime-genai refuses it"), open_onnx_text(bundle):
        pass


def test_the_runtime_config_names_all_stop_ids_and_the_context(tmp_path: Path) -> None:
    _, bundle = tiny_bundle(tmp_path, "onnx-int4")
    config = json.loads(bundle.file("genai_config.json").read_bytes())
    assert config["model"]["eos_token_id"] == [310, 311, 312]
    assert config["model"]["type"] == "phi3"
    assert config["model"]["context_length"] == config["search"]["max_length"] == 512
    assert config["search"]["past_present_share_buffer"] is True


def test_the_manifest_says_what_genai_cant_do_past_longropes_edge(tmp_path: Path) -> None:
    _, short = tiny_bundle(tmp_path / "short", "onnx-int4")
    _, long = tiny_bundle(tmp_path / "long", "onnx-int4", original_context=64)
    assert not any("past" in note for note in short.manifest.recipe.notes)
    assert any("past 64 tokens" in note for note in long.manifest.recipe.notes)
    assert long.manifest.model.exact_context_length == 512


def test_heads_that_the_operator_cant_rotate_are_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", hidden=96, heads=4, kv_heads=4))
    with pytest.raises(UnsupportedModelError, match="heads of 24"):
        build(checkpoint, recipe_named("onnx-fp16"), tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_rows_that_blocks_cant_take_are_refused_for_int4_only(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", intermediate=72))
    with pytest.raises(UnsupportedModelError, match=r"down_proj.weight' have 72 elements"):
        build(checkpoint, recipe_named("onnx-int4"), tmp_path / "bundle")
    build(checkpoint, recipe_named("onnx-fp16"), tmp_path / "bundle")


@pytest.mark.parametrize(
    ("recipe", "value", "message"),
    [
        ("onnx-int4", np.nan, "holds nan"),
        ("onnx-int4", -np.inf, "holds -inf"),
        ("onnx-fp16", 1e5, "float16 can't"),
        ("onnx-int4", 1e7, "too large for a float16 scale"),
    ],
)
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_weights_that_cant_be_stored_leave_nothing(
    tmp_path: Path, dtype: str, recipe: str, value: float, message: str
) -> None:
    folder = write_tiny(tmp_path / "checkpoint", dtype=dtype)
    weights = random_weights(Tiny().config())
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = value
    write_weights(folder, weights, dtype=dtype)
    with pytest.raises(CheckpointError, match=message) as caught:
        build(open_checkpoint(folder), recipe_named(recipe), tmp_path / "bundle")
    assert "down_proj" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, tiny: object, monkeypatch: pytest.MonkeyPatch) -> None:
    # The edge of the process: the file refuses as a full disk does.
    def refuse(file: object, data: memoryview) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(LargeFile, "write", refuse)
    with pytest.raises(BuildError, match="no space left"):
        build(tiny, recipe_named("onnx-int4"), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def _stored_arrays(graph: Path) -> dict[str, np.ndarray]:
    model = onnx.load(str(graph))
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("recipe", ["onnx-fp16", "onnx-int4"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_graph_holds_nothing_that_no_node_uses(tmp_path: Path, recipe: str, tied: bool) -> None:
    """A runtime warns of each such initializer whenever it loads the bundle."""
    import onnx

    _, bundle = tiny_bundle(tmp_path, recipe, tied=tied)
    graph = onnx.load(bundle.file("model.onnx"), load_external_data=False).graph
    used = {name for node in graph.node for name in node.input}
    assert {initializer.name for initializer in graph.initializer} <= used
