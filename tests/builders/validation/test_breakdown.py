"""Divergences by position and kind of token: each position counts once, where it belongs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import WordLevel

from builders.checkpoint import open_checkpoint
from builders.tokenizer import Tokenizer, tokenizer_of
from builders.validation.breakdown import kind_divergences, position_divergences, text_divergence, text_kind
from builders.validation.compare import NO_TOKEN, Comparison, Rows
from tests.support.checkpoints import write_tiny


def rows_of(sequences: int, length: int, kl: np.ndarray, following: np.ndarray | None = None) -> Rows:
    """Return rows of equal sequences with these divergences at each position."""
    parts = []
    for number in range(sequences):
        comparison = Comparison()
        logits = np.zeros((length, 4), np.float32)
        comparison.add(logits, logits, np.zeros(length, np.int64))
        rows = comparison.rows
        ids = rows.following if following is None else following
        parts.append(Rows(**(vars(rows) | {"kl": kl + number, "following": ids})))
    return Rows.joined(parts)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *[(" the", "words"), ("é", "words"), ("don't", "words"), ("x1", "words"), ("\ufffd", "other scripts")],
        *[("7", "digits"), (" 42", "digits"), ("½", "digits" if "½".isdigit() else "punctuation")],
        *[("код", "other scripts"), ("日本", "other scripts"), (" العربية", "other scripts")],
        *[("();", "punctuation"), ("\n\n", "punctuation"), ("", "punctuation"), ("=>", "punctuation")],
    ],
)
def test_the_kind_of_a_text(text: str, kind: str) -> None:
    assert text_kind(text) == kind


def test_each_position_is_in_the_range_it_belongs_to(tmp_path: Path) -> None:
    architecture = open_checkpoint(write_tiny(tmp_path / "c", window=96, context=512)).architecture
    kl = np.arange(1, 401, dtype=np.float64)  # the divergence is the position
    found = list(position_divergences(rows_of(3, 400, kl), architecture, 512))
    assert [(each.first, each.last) for each in found] == [(1, 16), (17, 64), (65, 96), (97, 256), (257, 400)]
    assert sum(each.tokens for each in found) == 1200
    for each in found:
        assert each.kl_mean == pytest.approx((each.first + each.last) / 2 + 1)  # sequences add 0, 1 and 2
        assert each.where == ("past the sliding window" if each.first > 96 else "")


def test_how_well_tokens_are_predicted_is_kept_block_by_block() -> None:
    """Of a window of 150 tokens the last has none after it, and one is ruled out by the reference."""
    rows = rows_of(2, 150, np.zeros(150))
    surprise = np.where(np.isnan(rows.reference_surprise), np.nan, np.linspace(1, 4, 300))
    surprise[5] = np.nan
    rows = Rows(**(vars(rows) | {"reference_surprise": surprise, "surprise": surprise + 0.25}))
    found = text_divergence("text", rows)
    assert found is not None
    assert found.prediction is not None
    kept = found.prediction
    known = surprise[~np.isnan(surprise)]
    assert kept.reference_perplexity == pytest.approx(np.exp(known.mean()))
    assert kept.perplexity == pytest.approx(kept.reference_perplexity * np.exp(0.25))
    assert kept.perplexity / kept.reference_perplexity == pytest.approx(found.perplexity_ratio)
    assert kept.block_tokens == (63, 85, 64, 85)  # a rest belongs to the block before it
    assert kept.reference_surprise == pytest.approx(
        [np.nansum(surprise[slice(*ends)]) for ends in ((0, 64), (64, 150), (150, 214), (214, 300))], abs=1e-4
    )


def test_a_part_is_named_by_positions_and_ids() -> None:
    """The same tokens at other positions have other tokens before them, and can't be compared."""
    ids = np.append(np.arange(159) % 7, NO_TOKEN)
    found = [text_divergence("text", rows) for rows in (rows_of(2, 160, np.zeros(160), one) for one in (ids, ids + 1))]
    later = rows_of(2, 160, np.zeros(160), ids)
    found.append(text_divergence("text", Rows(**(vars(later) | {"position": later.position + 1}))))
    found.append(text_divergence("another name", rows_of(2, 160, np.ones(160), ids)))
    digests = [one.prediction.digest for one in found if one is not None and one.prediction is not None]
    assert len(digests) == 4
    assert len(set(digests)) == 3
    assert digests[0] == digests[3]


def test_a_range_of_a_single_block_is_left_out(tmp_path: Path) -> None:
    architecture = open_checkpoint(write_tiny(tmp_path / "c")).architecture
    found = list(position_divergences(rows_of(1, 400, np.zeros(400)), architecture, 512))
    assert [(each.first, each.last) for each in found] == [(65, 256), (257, 400)]


def test_kinds_are_those_of_the_next_tokens() -> None:
    raw = RawTokenizer(WordLevel({"a": 0, "1": 1, ",": 2, "ж": 3, "<|end|>": 4}, unk_token="a"))
    raw.add_special_tokens(["<|end|>"])
    following = np.append(np.tile([0, 0, 1, 2, 3, 4], 25)[:149], NO_TOKEN)
    kl = np.where(following == 1, 5.0, 1.0)
    rows = rows_of(2, 150, kl, following)
    found = {each.kind: each for each in kind_divergences(rows, Tokenizer(raw, b""))}
    assert {kind: each.tokens for kind, each in found.items()} == {
        "words": 100,
        "digits": 50,
        "punctuation": 50,
        "other scripts": 50,
        "special": 48,
    }
    assert found["digits"].kl_mean == 5.5
    assert found["words"].kl_mean == 1.5


def test_the_kinds_of_a_byte_level_tokenizer_know_parts_of_characters(tiny_folder: Path) -> None:
    raw = RawTokenizer(WordLevel({"Ġthe": 0, "æĹ": 1, "Ċ": 2}, unk_token="Ċ"))
    raw.decoder = ByteLevel()
    rows = rows_of(2, 128, np.zeros(128), np.append(np.tile([0, 1, 2], 43)[:127], NO_TOKEN))
    kinds = {each.kind: each.tokens for each in kind_divergences(rows, Tokenizer(raw, b""))}
    assert kinds == {"words": 86, "other scripts": 84, "punctuation": 84}
    assert tokenizer_of(open_checkpoint(tiny_folder)).decode([0]) is not None


def test_a_text_of_a_single_block_has_no_divergence() -> None:
    assert text_divergence("short", rows_of(1, 64, np.zeros(64))) is None
