"""Chat templates that write the day, as Llama's do: what is built and measured depends on no day."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.oracle import record
from builders.oracle.record import Record
from builders.quantization.calibration.text import calibration_windows
from builders.templates import render_chat
from builders.tokenizer import tokenizer_of
from builders.validation.sampled_texts import text_windows
from targets.calibration import CalibrationSettings
from targets.errors import MeasurementError
from targets.evaluation import EvaluationSettings
from tests.support.checkpoints import CHAT_TEMPLATE, write_tiny

DATED = "<|system|>\nToday is {{ strftime_now('%d %b %Y') }}.<|end|>\n" + CHAT_TEMPLATE
FIXED = "Today is 26 Jul 2024."


@pytest.fixture
def dated(tmp_path: Path) -> Checkpoint:
    folder = write_tiny(tmp_path / "checkpoint")
    (folder / "chat_template.jinja").write_text(DATED, "utf-8")
    return open_checkpoint(folder)


def test_calibration_and_evaluation_read_conversations_of_one_day(dated: Checkpoint) -> None:
    """Else a walk that went on after midnight would begin again, and the bundles of two days would differ."""
    tokenizer = tokenizer_of(dated)
    learned = calibration_windows(dated, CalibrationSettings(), "full")
    chat = text_windows(dated, tokenizer, EvaluationSettings(suite="full"), 512)["chat"]
    for windows in (learned, chat):
        assert FIXED in tokenizer.decode(windows.reshape(-1).tolist())


def test_an_app_gets_the_day_of_its_machine() -> None:
    found = render_chat(DATED, [{"role": "user", "content": "Hello"}], {})
    assert re.search(r"Today is \d\d \w+ \d{4}\.", found)
    assert FIXED not in found


def test_what_the_oracle_rendered_yesterday_is_rendered_again(
    dated: Checkpoint, tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all conversations of the behaviour suite differed from the day after a checkpoint's first validation on."""

    def on(day: int) -> None:
        found = type("Day", (date,), {"today": classmethod(lambda cls: date(2026, 1, day))})
        monkeypatch.setattr(record, "date", found)

    on(1)
    for checkpoint in (dated, tiny):
        Record(tmp_path, checkpoint).write(MeasurementError("found", fix="none"))
    with pytest.raises(MeasurementError, match="found"):
        Record(tmp_path, dated).read()
    on(2)
    assert Record(tmp_path, dated).read() is None
    with pytest.raises(MeasurementError, match="found"):
        Record(tmp_path, tiny).read()
