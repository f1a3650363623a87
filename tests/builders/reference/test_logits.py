"""The cache of hidden states: used where it fits, computed again where it is damaged, whole or absent."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from builders import tool_versions
from builders.checkpoint import Checkpoint
from builders.reference import FloatReference, token_digest
from targets.errors import BuildError
from targets.progress import Event, Step

TOKENS = np.arange(24).reshape(2, 12)


def walks(tiny: Checkpoint, cache: Path, tokens: np.ndarray = TOKENS) -> tuple[int, np.ndarray]:
    """How often the layers were walked for an answer, and the answer."""
    events: list[Event] = []
    states = FloatReference(tiny, cache, events.append).hidden(tokens)
    return events.count(Step("reference", 0, tiny.architecture.layer_count, "layers")), states


def test_the_second_answer_comes_from_the_cache(tiny: Checkpoint, tmp_path: Path) -> None:
    first, states = walks(tiny, tmp_path)
    second, again = walks(tiny, tmp_path)
    assert (first, second) == (1, 0)
    np.testing.assert_array_equal(states, again)


def test_other_tokens_are_not_answered_from_it(tiny: Checkpoint, tmp_path: Path) -> None:
    walks(tiny, tmp_path)
    assert walks(tiny, tmp_path, TOKENS[:1])[0] == 1
    assert walks(tiny, tmp_path, TOKENS + 1)[0] == 1
    assert walks(tiny, tmp_path, TOKENS.reshape(3, 8))[0] == 1


def test_another_reading_of_the_config_is_not_answered_from_it(tiny: Checkpoint, tmp_path: Path) -> None:
    _, states = walks(tiny, tmp_path)
    other = replace(tiny, architecture=replace(tiny.architecture, rope_theta=500000.0))
    walked, others = walks(other, tmp_path)
    assert walked == 1
    assert np.abs(others - states).max() > 0.01


def test_another_torch_or_numpy_computes_it_again(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = FloatReference(tiny, tmp_path)
    name = reference.name_of(TOKENS)
    assert reference.name_of(TOKENS) == name
    for tool in ("torch", "numpy"):
        monkeypatch.setattr(tool_versions, "version", lambda asked, tool=tool: "0" if asked == tool else version(asked))
        assert reference.name_of(TOKENS) != name


@pytest.mark.parametrize("place", [-1, -4000, 40, 0])
def test_a_changed_byte_in_the_cache_is_seen(tiny: Checkpoint, tmp_path: Path, place: int) -> None:
    _, states = walks(tiny, tmp_path)
    (file,) = tmp_path.glob("*.hidden")
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    made, again = walks(tiny, tmp_path)
    assert made == 1
    np.testing.assert_array_equal(states, again)


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_cut_cache_is_seen(tiny: Checkpoint, tmp_path: Path, keep: int) -> None:
    walks(tiny, tmp_path)
    (file,) = tmp_path.glob("*.hidden")
    file.write_bytes(file.read_bytes()[:keep])
    assert walks(tiny, tmp_path)[0] == 1
    assert walks(tiny, tmp_path)[0] == 0


def test_nothing_half_written_is_left(tiny: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be", "utf-8")
    with pytest.raises(BuildError):
        walks(tiny, tmp_path / "cache")
    walks(tiny, tmp_path / "other")
    assert {path.suffix for path in (tmp_path / "other").iterdir()} == {".hidden"}


def test_the_token_digest_knows_shape_and_ids() -> None:
    assert token_digest(TOKENS) == token_digest(TOKENS.copy(order="F"))
    digests = {token_digest(tokens) for tokens in (TOKENS, TOKENS.reshape(1, 24), TOKENS + 1, TOKENS[:1])}
    assert len(digests) == 4
