"""Evaluation text: the built-in one is long enough, windows hold the text and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers.processors import TemplateProcessing

from builders.quantization.calibration.text import read_calibration_text
from builders.tokenizer import Tokenizer, load_tokenizer
from builders.validation.text import read_text, windows_of
from targets.calibration import CalibrationSettings
from targets.errors import CalibrationError, MeasurementError


@pytest.fixture
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(tiny_folder)


def with_bos(folder: Path) -> Tokenizer:
    raw = RawTokenizer.from_file(str(folder / "tokenizer.json"))
    raw.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 310)])
    return Tokenizer(raw, raw.to_str().encode())


def test_the_built_in_text_is_english_and_long_enough() -> None:
    text = read_text(None)
    assert len(text.split()) > 3_800  # 4,096 tokens of any vocabulary that packs at most 1.07 tokens a word
    assert text.isprintable() or set(text) - set(" ") >= {"\n"}
    assert "\r" not in text
    assert "\t" not in text


@pytest.mark.parametrize(
    ("read", "error"),
    [(read_text, MeasurementError), (lambda path: read_calibration_text(CalibrationSettings(path)), CalibrationError)],
)
def test_a_pipe_is_refused_whose_second_reading_would_be_empty(
    tmp_path: Path, read: Callable[[Path], object], error: type[Exception]
) -> None:
    """As of `--text <(cat a b)`: figures of what is read later would be missing without a word."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(error, match="is no regular file"):
            read(path)


def test_windows_are_the_text_cut_in_pieces(tokenizer: Tokenizer) -> None:
    text = "the ant in the thin onion. " * 20
    windows = windows_of(tokenizer, text, count=5, length=16)
    assert windows.shape == (5, 16)
    assert windows.dtype == np.int64
    assert windows.reshape(-1).tolist() == tokenizer.encode(text)[:80]


def test_a_tokenizer_that_puts_bos_first_gets_it_in_each_window(tiny_folder: Path) -> None:
    tokenizer = with_bos(tiny_folder)
    text = "the ant in the thin onion. " * 20
    windows = windows_of(tokenizer, text, count=5, length=16)
    assert (windows[:, 0] == 310).all()
    assert windows[:, 1:].reshape(-1).tolist() == tokenizer.encode(text)[:75]


def test_a_short_text_is_refused_with_both_counts(tokenizer: Tokenizer) -> None:
    with pytest.raises(MeasurementError, match="has 2 tokens; 2 windows of 8 need 16"):
        windows_of(tokenizer, "the the", count=2, length=8)


@pytest.mark.parametrize("length", [0, 1])
def test_windows_without_a_next_token_are_refused(tokenizer: Tokenizer, length: int) -> None:
    with pytest.raises(MeasurementError, match="too short"):
        windows_of(tokenizer, "the " * 50, count=1, length=length)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "binary", tmp_path / "nothing", tmp_path):
        with pytest.raises(MeasurementError, match=str(path)):
            read_text(path)
