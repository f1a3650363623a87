"""The plain implementations that stand for Phi-3-small's own code, and how differences are measured."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.oracle.phi3_small import Phi3SmallFormulas
from builders.oracle.ranks import RankSplitter
from builders.oracle.states import log_probability_difference, state_difference
from builders.oracle.texts import TEXTS, around
from builders.oracle.truth import Edge, Numbers
from devtools import cl100k
from targets.errors import MeasurementError
from tests.support.cases import examples
from tests.support.plain_small import plain_logits
from tests.support.small import write_telling


@pytest.mark.parametrize("changes", [{}, {"original_context": 64}])
def test_the_formulas_agree_with_the_ones_in_plain_numpy(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = write_telling(tmp_path / "c", {}, family="phi3small", **changes)
    truth = Phi3SmallFormulas(folder)
    probes = truth.numbers().probes()
    uncut = [replace(probe, past=0) for probe in probes]  # the plain one knows no other edges than the config's
    for probe, one in zip(probes, truth.observe(uncut, 2), strict=True):
        expected = plain_logits(folder, probe.tokens).astype(np.float32)
        assert log_probability_difference(expected, one.logits) < 1e-4


def test_the_formulas_read_shards_and_miss_a_head_that_is_not_there(tmp_path: Path) -> None:
    whole, parts = (
        write_telling(tmp_path / str(shards), {}, family="phi3small", tied=True, shards=shards) for shards in (1, 3)
    )
    probes = Phi3SmallFormulas(whole).numbers().probes()
    for one, other in zip(*(Phi3SmallFormulas(place).observe(probes, 2) for place in (whole, parts)), strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
    write_telling(whole, {"tie_word_embeddings": False}, family="phi3small")
    with pytest.raises(MeasurementError, match=r"needs 'lm_head\.weight'"):
        Phi3SmallFormulas(whole).observe(probes, 2)


def test_keys_that_are_absent_take_the_defaults_of_the_configuration_class(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", "utf-8")
    found = Phi3SmallFormulas(tmp_path).numbers()
    assert found == Numbers(32, 100352, 8192, {"blocksparse_num_local_blocks": 1024})


@pytest.fixture(scope="module")
def encodings(tmp_path_factory: pytest.TempPathFactory) -> tuple[RankSplitter, tiktoken.Encoding]:
    place = tmp_path_factory.mktemp("ranks")
    splitter = RankSplitter.read(Path(shutil.copy(cl100k.ensure(), place)))
    pattern = (  # tiktoken's own spelling, which it documents as the same and faster
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"""
        r"""\s+(?!\S)|\s"""
    )
    known = tiktoken.Encoding(
        "cl100k", pat_str=pattern, mergeable_ranks=splitter.ranks, special_tokens=splitter.special
    )
    return splitter, known


@settings(max_examples=examples(150))
@given(text=st.one_of(st.text(max_size=40), st.sampled_from([*TEXTS, *map(around, ("<|end|>", "<|user|>"))])))
def test_ranks_are_joined_as_tiktoken_joins_them(encodings: tuple[RankSplitter, tiktoken.Encoding], text: str) -> None:
    splitter, known = encodings
    text = text.encode("utf-8", "ignore").decode()
    ids = splitter.ids(text)
    assert ids == known.encode(text, allowed_special="all")
    plain = [number for number in ids if number < 100256]
    assert splitter.text(ids) == known.decode(plain)


def test_a_short_sequence_and_one_past_each_edge_within_the_context() -> None:
    edges: dict[Edge, int] = {"sliding_window": 2047, "original_max_position_embeddings": 4096}
    first, *others = Numbers(32, 100, 131072, edges).probes()
    assert (len(first.tokens), first.edge) == (96, None)
    assert [(len(one.tokens), one.edge, one.past, one.is_cut) for one in others] == [
        (96, "sliding_window", 40, True),
        (96, "original_max_position_embeddings", 56, True),
    ]
    assert len(Numbers(32, 100, 2047, edges).probes()) == 1  # no sequence is longer
    near = Numbers(1, 100, 500, {"sliding_window": 7, "original_max_position_embeddings": 48}).probes()
    assert [(len(one.tokens), one.past, one.is_cut) for one in near] == [
        (48, 0, False),
        (96, 7, False),
        (96, 48, False),
    ]
    assert [len(one.tokens) for one in Numbers(1, 100, 30, {"sliding_window": 7}).probes()] == [30, 30]
    assert first.tokens[:2].tolist() == [0, 99]


def test_differences_are_relative_to_a_value_or_to_the_mean_size() -> None:
    truth = np.array([[1.0, -1.0, 100.0, 0.0]], np.float32)
    assert state_difference(truth, truth) == 0
    assert state_difference(truth, truth + np.array([0, 0, 1, 0], np.float32)) == pytest.approx(0.01)
    assert state_difference(truth, truth + np.array([0, 0, 0, 1], np.float32)) == pytest.approx(1 / 50.01, rel=1e-3)
    assert state_difference(truth, truth * np.nan) == np.inf
    assert state_difference(truth, truth[:, :2]) == np.inf
    assert state_difference(truth * 0, truth * 0) == 0


def test_log_probabilities_ignore_a_shift_and_see_a_token_that_only_one_rules_out() -> None:
    truth = np.array([[1.0, 2.0, -np.inf]], np.float32)
    assert log_probability_difference(truth, truth + 3) < 1e-6
    assert log_probability_difference(truth, np.array([[1.0, 2.0, 0.0]], np.float32)) == np.inf
    assert log_probability_difference(truth, np.array([[1.0, 2.5, -np.inf]], np.float32)) > 0.1
    assert log_probability_difference(truth, truth * np.nan) == np.inf
