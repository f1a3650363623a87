"""Second moments on disk: right, whole, and gone on with after an interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.quantization.calibration import moments as module
from builders.quantization.calibration.measure import measured_statistics
from builders.quantization.calibration.moments import MomentFiles, block_widths
from builders.reference import FloatReference
from builders.reference.forward import StatisticsWalk
from builders.reference.statistics import multiplied
from targets.calibration import Calibration
from targets.progress import silent
from tests.support.checkpoints import VOCABULARY_SIZE, Tiny, random_weights, write_overflowing

TOKENS = np.random.default_rng(3).integers(0, VOCABULARY_SIZE, (3, 24))


def made(checkpoint: Checkpoint, folder: Path) -> MomentFiles:
    files = MomentFiles(folder, checkpoint.architecture)
    files.make(checkpoint.open_tensors(), TOKENS, silent)
    return files


def inputs_of(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Return all rows that each matrix is multiplied with, rounded to bfloat16, in float64."""
    seen: dict[str, list[np.ndarray]] = {}
    observe = lambda name, rows: seen.setdefault(name, []).append(rows.bfloat16().double().numpy())  # noqa: E731
    StatisticsWalk(checkpoint.architecture, checkpoint.open_tensors(), TOKENS, observe).run_all(silent)
    return {name: np.concatenate(rows) for name, rows in seen.items()}


def test_they_are_the_means_of_the_products(tiny: Checkpoint, tmp_path: Path) -> None:
    files, inputs = made(tiny, tmp_path / "m"), inputs_of(tiny)
    for name in multiplied(tiny.architecture):
        (found,) = files.of(name)
        np.testing.assert_allclose(found, inputs[name].T @ inputs[name] / TOKENS.size, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(found, found.T)


def test_ranges_of_the_cache_are_those_of_the_reference(tiny: Checkpoint, tmp_path: Path) -> None:
    ranges = made(tiny, tmp_path / "m").squares()[1]
    np.testing.assert_array_equal(ranges, FloatReference(tiny).cache_ranges(TOKENS))


def test_wide_matrices_have_diagonal_blocks(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WIDEST", 50)
    monkeypatch.setattr(module, "_STEP", 32)
    files, inputs = made(tiny, tmp_path / "m"), inputs_of(tiny)
    name = "model.layers.1.mlp.down_proj.weight"
    whole = inputs[name].T @ inputs[name] / TOKENS.size
    start = 0
    for block in files.of(name):
        own = slice(start, start + len(block))
        np.testing.assert_allclose(block, whole[own, own], rtol=1e-4, atol=1e-6)
        start += len(block)
    assert start == 128
    np.testing.assert_allclose(files.squares()[0][name], np.diagonal(whole), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("columns", [576, 3072, 4608, 5120, 8192, 14336, 17920])
def test_blocks_cover_the_columns(columns: int) -> None:
    widths = block_widths(columns)
    assert sum(widths) == columns
    assert max(widths) <= 4608
    assert max(widths) < 1.2 * min(widths)
    assert all(width % 256 == 0 for width in widths[:-1])


def test_an_interrupted_walk_goes_on_where_it_stopped(tiny: Checkpoint, tmp_path: Path) -> None:
    whole = made(tiny, tmp_path / "whole")
    stopped = MomentFiles(tmp_path / "stopped", tiny.architecture)

    def stop(step: object) -> None:
        if getattr(step, "done", 0) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.make(tiny.open_tensors(), TOKENS, stop)
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == ["000.moments", "states"]
    first = (tmp_path / "stopped" / "000.moments").stat().st_mtime_ns
    stopped.make(tiny.open_tensors(), TOKENS, silent)
    assert (tmp_path / "stopped" / "000.moments").stat().st_mtime_ns == first
    assert not (tmp_path / "stopped" / "states").exists()
    for name in multiplied(tiny.architecture):
        np.testing.assert_array_equal(stopped.of(name)[0], whole.of(name)[0])


def test_a_damaged_file_is_made_again(tiny: Checkpoint, tmp_path: Path) -> None:
    files = made(tiny, tmp_path / "m")
    right = files.of("model.layers.0.mlp.down_proj.weight")[0]
    path = tmp_path / "m" / "000.moments"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match="damaged"):
        MomentFiles(tmp_path / "m", tiny.architecture).of("model.layers.0.mlp.down_proj.weight")
    full = measured_statistics(tiny, "full", TOKENS, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").glob("*.moments")
    (folder / "000.moments").write_bytes(content)
    again = measured_statistics(tiny, "full", TOKENS, tmp_path / "cache")
    np.testing.assert_array_equal(again.moments.of("model.layers.0.mlp.down_proj.weight")[0], right)
    assert full.squares.keys() == again.squares.keys()


def test_full_statistics_are_those_of_the_folded_matrices(tiny: Checkpoint, tmp_path: Path) -> None:
    full = measured_statistics(tiny, "full", TOKENS, tmp_path)
    inputs = inputs_of(tiny)
    name = "model.layers.1.self_attn.qkv_proj.weight"
    found = full.of(name)
    assert found is not None
    divided = inputs[name] / full.factors[name]
    np.testing.assert_allclose(found.squares, np.square(divided).mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.moments[0], divided.T @ divided / TOKENS.size, rtol=1e-3, atol=1e-6)
    light = measured_statistics(tiny, "light", TOKENS, tmp_path)
    same = light.of(name)
    assert same is not None
    assert not same.moments
    np.testing.assert_allclose(same.squares, found.squares, rtol=0.01)  # those of the moments are of rounded inputs
    assert light.of("model.norm.weight") is None
    assert full.token_count == 72


@pytest.mark.parametrize("level", ["light", "full"])
def test_inputs_that_are_not_finite_are_named_and_no_calibration(level: Calibration, tmp_path: Path) -> None:
    before = "model.layers.0.self_attn.qkv_proj.weight"  # whose zeros are all that o_proj is multiplied with
    zeros = np.zeros_like(random_weights(Tiny().config())[before])
    name = write_overflowing(tmp_path / "checkpoint", **{before: zeros})
    checkpoint = open_checkpoint(tmp_path / "checkpoint")
    assert np.isfinite(FloatReference(checkpoint).states(TOKENS)).all()
    for _ in range(2):  # measured, and from the cache
        found = measured_statistics(checkpoint, level, TOKENS, tmp_path / "cache")
        assert set(found.unusable) == {name, "model.layers.0.self_attn.o_proj.weight"}
        assert [found.of(each) for each in found.unusable] == [None, None]
