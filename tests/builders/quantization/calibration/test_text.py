"""Calibration text: the built-in mix is long enough and of every kind from the start, a file is spread over evenly."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.quantization.calibration.text import (
    TOKENS,
    CalibrationText,
    calibration_windows,
    read_calibration_text,
)
from builders.tokenizer import tokenizer_of
from targets.calibration import CalibrationSettings
from targets.errors import CalibrationError
from tests.support.checkpoints import CHAT_TEMPLATE, write_tiny

BUILT_IN = CalibrationSettings()


def built_in() -> CalibrationText:
    return read_calibration_text(BUILT_IN)


def test_the_built_in_text_is_long_enough_for_large_vocabularies() -> None:
    """Phi-4-mini's 200,000 tokens make 18,000 of it without the chat turns; it has 3.6 characters a token."""
    text = built_in()
    assert sum(map(len, text.parts)) / 3.7 > TOKENS["full"]
    assert all(turn["role"] in ("user", "assistant") for chat in text.conversations for turn in chat)


def test_every_file_of_the_built_in_text_has_a_licence() -> None:
    folder = resources.files("builders.quantization.calibration").joinpath("texts")
    licences = folder.joinpath("LICENCES.md").read_text("utf-8")
    names = {file.name for file in folder.iterdir()} - {"LICENCES.md"}
    assert len(names) == len(built_in().parts) + 1
    assert all(f"`{name}`" in licences for name in names)


@pytest.mark.parametrize(("calibration", "count"), [("light", 4), ("full", 32)])
def test_windows_have_the_level_s_tokens(tiny: Checkpoint, calibration: str, count: int) -> None:
    windows = calibration_windows(tiny, BUILT_IN, calibration)  # type: ignore[arg-type] - parametrized
    assert (windows.shape, windows.dtype) == ((count, 512), np.int64)
    assert 0 <= windows.min() <= windows.max() < tiny.architecture.vocabulary_size


def test_light_has_every_kind_of_text(tiny: Checkpoint) -> None:
    text, tokenizer = built_in(), tokenizer_of(tiny)
    read = calibration_windows(tiny, BUILT_IN, "light").reshape(-1).tolist()
    starts = [tokenizer.encode(part)[:12] for part in text.parts]
    starts.append(tokenizer.encode("<|user|>\n" + text.conversations[0][0]["content"])[:12])
    assert all(any(read[at : at + 12] == start for at in range(len(read))) for start in starts)


def test_full_goes_on_through_every_part(tiny: Checkpoint) -> None:
    full = calibration_windows(tiny, BUILT_IN, "full").reshape(-1)
    decoded = tokenizer_of(tiny).decode(full.tolist())
    for part in built_in().parts:
        assert part[:20] in decoded
        assert part.rstrip()[-20:] in decoded


def test_without_a_template_there_are_no_chat_turns(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    with_chat = tokenizer_of(open_checkpoint(folder)).decode(
        calibration_windows(open_checkpoint(folder), BUILT_IN, "full").reshape(-1).tolist()
    )
    config = (folder / "tokenizer_config.json").read_text("utf-8")
    (folder / "tokenizer_config.json").write_text(config.replace('"chat_template"', '"no_template"'), "utf-8")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.chat_template is None
    windows = calibration_windows(checkpoint, BUILT_IN, "full")
    assert windows.shape == (32, 512)
    question = built_in().conversations[0][0]["content"]
    assert "<|user|>" in CHAT_TEMPLATE.replace("{{ message['role'] }}", "user")
    assert question[:30] in with_chat
    assert question[:30] not in tokenizer_of(checkpoint).decode(windows.reshape(-1).tolist())


def test_windows_are_no_longer_than_the_model_s_context(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", context=100))
    assert calibration_windows(checkpoint, BUILT_IN, "light").shape == (21, 100)


def test_a_file_is_read_evenly(tiny: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("".join(f"{number:04d} " for number in range(10_000)), "utf-8")
    windows = calibration_windows(tiny, CalibrationSettings(tmp_path / "text"), "light")
    ids = tokenizer_of(tiny).encode((tmp_path / "text").read_text("utf-8"))
    assert windows[0].tolist() == ids[:512]
    assert windows[-1].tolist() == ids[-512:]
    assert windows[1].tolist() == ids[(len(ids) - 512) // 3 :][:512]


@pytest.mark.parametrize(("calibration", "needed"), [("light", "2,048"), ("full", "16,384")])
def test_a_short_text_is_refused_with_what_it_has_and_needs(
    tiny: Checkpoint, tmp_path: Path, calibration: str, needed: str
) -> None:
    (tmp_path / "text").write_text("the the", "utf-8")
    with pytest.raises(CalibrationError, match=f"text has 2 tokens; {calibration} calibration reads {needed}") as error:
        calibration_windows(tiny, CalibrationSettings(tmp_path / "text"), calibration)  # type: ignore[arg-type]
    assert "longer text" in error.value.fix


def test_a_file_that_is_no_text_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "binary", tmp_path / "nothing", tmp_path):
        with pytest.raises(CalibrationError, match=str(path)):
            calibration_windows(tiny, CalibrationSettings(path), "light")


def test_the_digest_is_of_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one text", "utf-8")
    (tmp_path / "b").write_text("one text", "utf-8")
    (tmp_path / "c").write_text("another text", "utf-8")
    one, same, other = (read_calibration_text(CalibrationSettings(tmp_path / name)).digest for name in "abc")
    assert one == same != other
    assert built_in().digest == built_in().digest
