"""The package as Core ML's own tools see it, its bytes, and that two builds give the same ones."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.conversion import BuildRequest
from builders.coreml import artifact_sizes
from builders.quantization.calibration.statistics import MatrixStatistics
from builders.quantization.rounding.tables import table_matrix
from builders.runtime.coreml.program_file import Blob, read_program
from builders.runtime.coreml.session import open_session
from registry.bundle.folder import verify
from targets.recipes import recipe_named
from targets.storage.coreml import CANDIDATES, TABLE_CANDIDATES, TABLE_ROWS, Blocks, TableBlocks, plan
from tests.support.checkpoints import write_tiny, write_weights
from tests.support.parity import some_tokens, tiny_bundle
from tests.support.transformers_models import transformers_logits

RECIPES = ("coreml-fp16", "coreml-int4", "coreml-palettized4")


@pytest.mark.parametrize("recipe", RECIPES)
def test_coremltools_loads_it_as_an_ios_18_program_with_a_stateful_cache(tmp_path: Path, recipe: str) -> None:
    import coremltools as ct

    _, bundle = tiny_bundle(tmp_path, recipe)
    model = ct.models.MLModel(str(bundle.file("model.mlpackage")), skip_model_load=True)
    specification = model.get_spec()
    assert specification.specificationVersion == ct.target.iOS18.value
    fixed = recipe_named(recipe).fixed_shapes
    for described in specification.description.functions if fixed else [specification.description]:
        states = {state.name: tuple(state.type.stateType.arrayType.shape) for state in described.state}
        assert states == {"keyCache": (2, 1, 2, 512, 16), "valueCache": (2, 1, 2, 512, 16)}
        assert [entry.name for entry in described.input] == ["inputIds", "position" if fixed else "causalMask"]
        assert [entry.name for entry in described.output] == ["logits"]
    assert [one.name for one in specification.description.functions] == (["main", "prompt"] if fixed else [])


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_builds_give_the_same_bytes(tmp_path: Path, recipe: str) -> None:
    checkpoint, first = tiny_bundle(tmp_path, recipe)
    second = build(open_checkpoint(checkpoint), recipe_named(recipe), tmp_path / "second")
    assert first.digest == second.digest
    verify(second)
    assert str(tmp_path).encode() not in b"".join(
        path.read_bytes() for path in second.path.rglob("*") if path.is_file()
    )


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("tied", [False, True])
def test_the_plan_is_what_the_weights_file_holds(tmp_path: Path, recipe: str, tied: bool) -> None:
    checkpoint, bundle = tiny_bundle(tmp_path, recipe, tied=tied)
    planned = plan(open_checkpoint(checkpoint).architecture, recipe_named(recipe))
    program = read_program(bundle.file("model.mlpackage"))
    blobs = {name: [value] for name, value in program.constants.items() if isinstance(value, Blob)}
    tables = {step.results[0].name: step.arguments for step in program.steps if step.operator.endswith("lut_to_dense")}
    for step in program.steps:
        if step.operator == "constexpr_blockwise_shift_scale":
            blobs[step.results[0].name] = [part for part in step.arguments.values() if isinstance(part, Blob)]
            looked_up = tables.get(f"{step.results[0].name}_values", {})
            blobs[step.results[0].name] += [part for part in looked_up.values() if isinstance(part, Blob)]
    stored = {
        weight.name: sum(
            _bytes(program.blobs.read(part), weight.storage)
            for part in blobs[weight.name.removesuffix(".weight").replace(".", "_")]
        )
        for weight in planned
    }
    assert stored == {weight.name: weight.bytes for weight in planned}
    assert sum(entry.bytes for entry in bundle.manifest.recipe.weights) == sum(weight.bytes for weight in planned)


@pytest.mark.parametrize("blocks", CANDIDATES, ids=lambda blocks: blocks.label)
def test_every_type_that_a_budget_may_choose_keeps_the_weights(tmp_path: Path, blocks: Blocks) -> None:
    """Read from the package and decompressed by coremltools' own operation."""
    from coremltools.converters.mil.mil.ops.defs.iOS18.compression import constexpr_blockwise_shift_scale

    opened = open_checkpoint(write_tiny(tmp_path / "checkpoint", hidden=128, intermediate=256, layers=1))
    names = [name for name, shape in opened.architecture.tensor_shapes().items() if len(shape) == 2]
    recipe = replace(recipe_named("coreml-int4"), types=tuple((name, blocks.label) for name in names))
    program = read_program(build(opened, recipe, tmp_path / "bundle").file("model.mlpackage"))
    found = {step.results[0].name: step.arguments for step in program.steps if step.operator.startswith("constexpr_")}
    assert len(found) == len(names)
    for name in names:
        parts = found[name.removesuffix(".weight").replace(".", "_")]
        read = {part: program.blobs.read(parts[part]) for part in ("data", "scale", "offset")}
        assert read["data"].max() < 1 << blocks.bits
        back = constexpr_blockwise_shift_scale.decompress(
            read["data"].astype(np.uint8), read["scale"], read["offset"].astype(np.uint8)
        )
        weights = opened.open_tensors().tensor(name)
        step = np.ptp(weights.reshape(len(weights), -1, blocks.size), axis=-1).max() / ((1 << blocks.bits) - 1)
        assert np.abs(back.astype(np.float32) - weights).max() < 1.2 * step


def test_tables_are_read_by_coremltools_as_they_were_meant(tmp_path: Path) -> None:
    """Decompressed by coremltools' own operations: values looked up, then scaled by row."""
    from coremltools.converters.mil.mil.ops.defs.iOS18.compression import (
        constexpr_blockwise_shift_scale,
        constexpr_lut_to_dense,
    )

    opened = open_checkpoint(write_tiny(tmp_path / "checkpoint", layers=1, intermediate=72))
    program = read_program(
        build(opened, recipe_named("coreml-palettized4"), tmp_path / "bundle").file("model.mlpackage")
    )
    found = {step.results[0].name: step.arguments for step in program.steps if step.operator.startswith("constexpr_")}
    names = [name for name, shape in opened.architecture.tensor_shapes().items() if len(shape) == 2]
    assert len(found) == 2 * len(names)
    for name in names:
        stem = name.removesuffix(".weight").replace(".", "_")
        codes, tables = (program.blobs.read(found[f"{stem}_values"][part]) for part in ("indices", "lut"))
        scales = program.blobs.read(found[stem]["scale"])
        values = constexpr_lut_to_dense.decompress(codes.astype(np.uint8), tables, None)
        back = constexpr_blockwise_shift_scale.decompress(values, scales, None).astype(np.float32)
        weights = opened.open_tensors().tensor(name)
        assert len(tables) == len(weights) // math.gcd(len(weights), TABLE_ROWS)
        quantized = table_matrix(weights, len(weights) // len(tables), MatrixStatistics(np.ones(weights.shape[1])))
        np.testing.assert_allclose(back, quantized.dequantized(), rtol=2e-3, atol=1e-5)
        assert np.square(back - weights).sum() < 0.012 * np.square(weights).sum()


@pytest.mark.parametrize("blocks", TABLE_CANDIDATES, ids=lambda blocks: blocks.label)
def test_every_table_that_a_budget_may_choose_keeps_the_weights(tmp_path: Path, blocks: TableBlocks) -> None:
    """From the saved and reloaded package, by coremltools' own operations; and the evaluator computes so."""
    import coremltools as ct
    from coremltools.converters.mil.mil.ops.defs.iOS18.compression import (
        constexpr_blockwise_shift_scale,
        constexpr_lut_to_dense,
    )

    opened = open_checkpoint(write_tiny(tmp_path / "checkpoint", hidden=128, intermediate=192, layers=1))
    shapes = {name: shape for name, shape in opened.architecture.tensor_shapes().items() if len(shape) == 2}
    recipe = replace(recipe_named("coreml-int4"), types=tuple((name, blocks.label) for name in shapes))
    predicted = artifact_sizes(BuildRequest.from_checkpoint(opened, recipe, 64))
    bundle = build(opened, recipe, tmp_path / "bundle", context_length=64)
    package = bundle.file("model.mlpackage")
    assert {file.path: file.bytes for file in bundle.manifest.files if file.path in predicted} == predicted
    ct.models.MLModel(str(package), skip_model_load=True).save(str(tmp_path / "again.mlpackage"))
    program = read_program(tmp_path / "again.mlpackage")
    found = {step.results[0].name: step.arguments for step in program.steps if step.operator.startswith("constexpr_")}
    assert len(found) == 2 * len(shapes)
    stored = {name: opened.open_tensors().tensor(name) for name in opened.architecture.tensor_shapes()}
    for name, (rows, columns) in shapes.items():
        stem = name.removesuffix(".weight").replace(".", "_")
        codes, tables = (program.blobs.read(found[f"{stem}_values"][part]) for part in ("indices", "lut"))
        scales = program.blobs.read(found[stem]["scale"])
        assert codes.max() == (1 << blocks.bits) - 1
        assert tables.shape == (rows // math.gcd(rows, 64), 1, 1 << blocks.bits, 1)
        assert scales.shape == (rows, columns // blocks.size)
        values = constexpr_lut_to_dense.decompress(codes.astype(np.uint8), tables, None)
        back = constexpr_blockwise_shift_scale.decompress(values, scales, None).astype(np.float32)
        weights, stored[name] = stored[name], back
        worst = {3: 0.04, 4: 0.01}[blocks.bits]
        assert 0 < np.square(back - weights).sum() < worst * np.square(weights).sum()
    tokens = some_tokens(12)
    write_weights(opened.path, stored, dtype="F32")
    with open_session(bundle) as session:
        assert np.abs(session.score(tokens) - transformers_logits(opened.path, tokens)).max() < 0.03


def _bytes(values: np.ndarray, storage: str) -> int:
    """Bytes of a part in the file: codes and offsets take half a byte each."""
    return (
        (values.size + 1) // 2 if storage.startswith(("uint4", "table")) and values.dtype == np.uint8 else values.nbytes
    )
