"""Special tokens are read where a sequence starts and where they follow text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.checkpoint import Checkpoint
from builders.quantization.calibration import special_tokens
from builders.quantization.calibration.measure import measured_statistics, with_cache_ranges
from builders.quantization.calibration.special_tokens import LENGTH, special_token_windows

SPECIAL = [310, 311, 312, 313, 314]
TEXT = np.arange(2 * 40).reshape(2, 40)


def test_each_stands_first_and_after_text(tiny: Checkpoint) -> None:
    found = special_token_windows(tiny, TEXT)
    assert found.shape == (2 * len(SPECIAL), LENGTH)
    places = [[(at, token) for at, token in enumerate(row) if token in SPECIAL] for row in found.tolist()]
    assert places == [[(at, token)] for at in (0, 12) for token in SPECIAL]
    rest = found[~np.isin(found, SPECIAL)]
    assert np.isin(rest, TEXT).all()
    assert len(np.unique(rest)) > LENGTH  # not the same text for all


def test_sequences_are_no_longer_than_the_context(tiny: Checkpoint) -> None:
    found = special_token_windows(tiny, TEXT[:, :4])
    assert [row.tolist().index(token) for row, token in zip(found, 2 * SPECIAL, strict=True)] == [0] * 5 + [3] * 5
    assert special_token_windows(tiny, TEXT[:, :1]).tolist() == [[token] for token in 2 * SPECIAL]


def test_as_many_are_read_as_the_cost_allows(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(special_tokens, "_MOST", 2)
    assert special_token_windows(tiny, TEXT)[:, 0].tolist()[:2] == SPECIAL[:2]
    monkeypatch.setattr(special_tokens, "_MOST", 0)
    assert special_token_windows(tiny, TEXT).shape == (0, LENGTH)


def test_ranges_cover_the_text_as_well(tiny: Checkpoint, tmp_path: Path) -> None:
    learned = measured_statistics(tiny, "light", TEXT, tmp_path)
    assert learned.cache_ranges is None
    assert learned.text_ranges is not None
    sequences = special_token_windows(tiny, TEXT)
    found = with_cache_ranges(learned, tiny, sequences, tmp_path).cache_ranges
    assert found is not None
    assert (found >= learned.text_ranges).all()
    assert 0 < (found > learned.text_ranges).mean() < 1
    none = with_cache_ranges(learned, tiny, sequences[:0], tmp_path).cache_ranges
    np.testing.assert_array_equal(none, learned.text_ranges)
