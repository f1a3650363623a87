"""Sensitivities: what they measure, and that they are measured once."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from builders import tool_versions
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.matrix.keys import walk_tools
from builders.quantization import sensitivity, sensitivity_cache
from builders.quantization.calibration.walks import Blocks, CalibrationWalk
from builders.quantization.sensitivity import EMBEDDING, Floats, sensitivities
from builders.quantization.sensitivity_cache import measured_sensitivities, sensitivity_windows
from builders.reference import FloatReference
from builders.validation.compare import Comparison
from targets.errors import CalibrationError
from targets.progress import Step
from targets.storage.coreml import candidates
from tests.support.checkpoints import Tiny, write_tiny

TOKENS = np.random.default_rng(0).integers(0, 300, (2, 40))
Change = Callable[[Floats], Floats]


class Changed:
    """A checkpoint's weights with one matrix changed, wherever it is used."""

    def __init__(self, checkpoint: Checkpoint, name: str, change: Change) -> None:
        self._source, self._name, self._change = checkpoint.open_tensors(), name, change
        self.stored_tensor = self._source.stored_tensor

    def tensor(self, name: str) -> Floats:
        values = self._source.tensor(name)
        return self._change(values) if name == self._name else values

    def rows(self, name: str, ids: np.ndarray) -> Floats:
        values = self._source.rows(name, ids)
        return self._change(values) if name == self._name else values


def divergence(checkpoint: Checkpoint, name: str, change: Change) -> float:
    """Return the divergence of the whole model with one matrix changed, by the means of validation."""
    exact, other, comparison = FloatReference(checkpoint), FloatReference(checkpoint), Comparison()
    other.__dict__["_source"] = Changed(checkpoint, name, change)
    for tokens, states, found in zip(TOKENS, exact.hidden(TOKENS), other.hidden(TOKENS), strict=True):
        comparison.add(exact.logits(states), other.logits(found), tokens)
    return comparison.figures()["kl_mean"]


def coarse(matrix: Floats) -> Floats:
    return np.round(matrix * 8) / 8  # of an element alone, so that rows that are looked up change alike


TINIES = [Tiny(layers=3), Tiny(family="llama", tied=True), Tiny(family="phi3small", hidden=64)]


@pytest.mark.parametrize("tiny", TINIES, ids=["phi3", "llama, tied", "phi3small"])
def test_they_are_the_divergences_of_models_with_one_rounded_matrix(tmp_path: Path, tiny: Tiny) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", tiny))
    found = sensitivities(
        checkpoint.architecture, checkpoint.open_tensors(), TOKENS, lambda name, matrix, squares: coarse(matrix)
    )
    shapes = checkpoint.architecture.tensor_shapes()
    assert list(found) == [name for name, shape in shapes.items() if len(shape) == 2]
    for name in {EMBEDDING, checkpoint.architecture.head_tensor, *[*found][1::3]}:
        assert found[name] == pytest.approx(divergence(checkpoint, name, coarse), rel=2e-3)
        assert found[name] > 1e-5


def test_rounding_knows_what_a_matrix_is_multiplied_with(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint"))
    given: dict[str, Floats | None] = {}

    def rounded(name: str, matrix: Floats, squares: Floats | None) -> Floats:
        given[name] = squares
        return matrix

    found = sensitivities(checkpoint.architecture, checkpoint.open_tensors(), TOKENS, rounded)
    assert max(found.values()) < 1e-6
    assert given.pop(EMBEDDING) is None
    expected = FloatReference(checkpoint).statistics(TOKENS)
    assert set(given) == set(expected)
    for name, squares in given.items():
        np.testing.assert_allclose(squares, expected[name], rtol=0.02)  # type: ignore[arg-type] # products of bfloat16


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint"))


@pytest.fixture
def steps() -> list[object]:
    return []


@pytest.mark.parametrize("blocks", ["gguf", "affine"])
def test_they_are_measured_once(tiny: Checkpoint, tmp_path: Path, blocks: Blocks, steps: list[object]) -> None:
    found = measured_sensitivities(tiny, blocks, TOKENS, tmp_path, steps.append)
    assert steps[-1] == Step("sensitivity", 2, 2, "layers")
    assert min(found.values()) > 1e-6
    steps.clear()
    assert measured_sensitivities(tiny, blocks, TOKENS, tmp_path, steps.append) == found
    assert steps == []
    measured_sensitivities(tiny, blocks, TOKENS[:1], tmp_path, steps.append)
    assert steps != []


@pytest.mark.parametrize(
    ("tool", "blocks"), [("torch", "affine"), ("numba", "affine"), ("llama-cpp-python", "gguf"), ("numpy", "gguf")]
)
def test_with_another_version_of_a_tool_they_are_measured_again(
    tiny: Checkpoint, tmp_path: Path, tool: str, blocks: Blocks, steps: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They choose the types of bundles, and are shared by a key that has these versions."""
    measured_sensitivities(tiny, blocks, TOKENS, tmp_path)
    monkeypatch.setattr(tool_versions, "version", lambda name: "99" if name == tool else version(name))
    measured_sensitivities(tiny, blocks, TOKENS, tmp_path, steps.append)
    assert steps != []
    assert tool in walk_tools(CalibrationWalk("light", blocks))


def test_rows_that_only_blocks_of_16_divide_are_measured_in_these(tmp_path: Path) -> None:
    odd = open_checkpoint(write_tiny(tmp_path / "checkpoint", Tiny(hidden=48, heads=3, kv_heads=1, layers=1)))
    found = measured_sensitivities(odd, "affine", TOKENS, tmp_path)
    assert min(found.values()) > 1e-6
    assert candidates("lm_head.weight", odd.architecture)[0].storage == "table of 16 block 16"


def test_formats_have_their_own(tiny: Checkpoint, tmp_path: Path) -> None:
    assert measured_sensitivities(tiny, "gguf", TOKENS, tmp_path) != measured_sensitivities(
        tiny, "affine", TOKENS, tmp_path
    )


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: raw[:40] + b"x" + raw[41:], lambda raw: b""])
def test_a_damaged_file_is_measured_again(
    tiny: Checkpoint, tmp_path: Path, damage: Callable[[bytes], bytes], steps: list[object]
) -> None:
    found = measured_sensitivities(tiny, "gguf", TOKENS, tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    assert measured_sensitivities(tiny, "gguf", TOKENS, tmp_path, steps.append) == found
    assert steps != []


def interrupted(checkpoint: Checkpoint, folder: Path, layer: int) -> None:
    def interrupt(step: object) -> None:
        if step == Step("sensitivity", layer, 2, "layers"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured_sensitivities(checkpoint, "gguf", TOKENS, folder, interrupt)


@pytest.mark.parametrize("layer", [1, 2])
def test_what_was_interrupted_goes_on(
    tiny: Checkpoint, tmp_path: Path, steps: list[object], layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "SECONDS_BETWEEN_SAVES", 0.0)
    found = measured_sensitivities(tiny, "gguf", TOKENS, tmp_path / "whole")
    interrupted(tiny, tmp_path, layer)
    assert measured_sensitivities(tiny, "gguf", TOKENS, tmp_path, steps.append) == found
    assert steps[0] == Step("sensitivity", layer, 2, "layers")
    names = [[path.name for path in folder.glob("*.sens*")] for folder in (tmp_path, tmp_path / "whole")]
    assert names[0] == names[1]
    assert len(names[0]) == 1


def test_what_was_interrupted_before_anything_was_kept_leaves_nothing(
    tiny: Checkpoint, tmp_path: Path, steps: list[object]
) -> None:
    interrupted(tiny, tmp_path, 1)
    assert list(tmp_path.iterdir()) == []
    measured_sensitivities(tiny, "gguf", TOKENS, tmp_path, steps.append)
    assert steps[0] == Step("sensitivity", 0, 2, "layers")


def test_damaged_states_are_not_gone_on_with(
    tiny: Checkpoint, tmp_path: Path, steps: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "SECONDS_BETWEEN_SAVES", 0.0)
    interrupted(tiny, tmp_path, 1)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-4])
    measured_sensitivities(tiny, "gguf", TOKENS, tmp_path, steps.append)
    assert steps[0] == Step("sensitivity", 0, 2, "layers")


def test_answers_that_are_not_finite_are_refused(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str, matrix: Floats, squares: Floats | None) -> Floats:
        return matrix * np.float32(np.inf) if name.endswith("layers.1.mlp.down_proj.weight") else matrix

    monkeypatch.setattr(sensitivity_cache, "_ROUNDING", {"gguf": broken})
    with pytest.raises(CalibrationError, match=r"layers\.1\.mlp\.down_proj"):
        measured_sensitivities(tiny, "gguf", TOKENS, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_dead_input_counts_all_columns_alike(tiny: Checkpoint) -> None:
    matrix = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    for rounded in sensitivity_cache._ROUNDING.values():
        plain = rounded("a", matrix, None)
        for dead in (np.zeros(64, np.float32), np.full(64, np.inf, np.float32)):
            np.testing.assert_array_equal(rounded("a", matrix, dead), plain)


def test_windows_are_spread_over_the_text() -> None:
    windows = np.arange(8 * 512).reshape(8, 512)
    chosen = sensitivity_windows(windows)
    assert chosen.shape == (4, 128)
    np.testing.assert_array_equal(chosen[:, 0] // 512, [0, 2, 5, 7])
    np.testing.assert_array_equal(sensitivity_windows(windows[:2, :64]), windows[:2, :64])


def exact_divergence(before: np.ndarray, after: np.ndarray) -> float:
    """Return the sum over rows of the divergence of logits, in float64."""
    log_p, log_q = (rows - np.logaddexp.reduce(rows, axis=1, keepdims=True) for rows in (before, after))
    return float((np.exp(log_p) * (log_p - log_q)).sum())


@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0, 30.0])
@pytest.mark.parametrize("is_rounded", [False, True], ids=["exact head", "rounded head"])
def test_divergences_are_exact_however_small_or_large(size: float, is_rounded: bool) -> None:
    generator = np.random.default_rng(3)
    states, changes = (generator.normal(size=(9, 64)).astype(np.float32) for _ in range(2))
    head = generator.normal(size=(5000, 64)).astype(np.float32)
    own = states + np.float32(size) * changes
    other = coarse(head) if is_rounded else head
    found = sensitivity._Expected(states, head, 2.0).divergence(own, other)
    wide = [array.astype(np.float64) for array in (states, head, own, other)]
    assert found == pytest.approx(exact_divergence(wide[0] @ wide[1].T / 2, wide[2] @ wide[3].T / 2), rel=1e-3)


def test_a_state_that_is_not_finite_has_no_divergence() -> None:
    states, head = np.ones((2, 64), np.float32), np.ones((300, 64), np.float32)
    assert np.isnan(sensitivity._Expected(states, head, 1.0).divergence(states * np.float32(np.inf), head))
