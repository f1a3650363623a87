"""A bundle is not evaluated on what it was calibrated on, as far as its manifest says it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builders.checkpoint import Checkpoint
from builders.devices.reference import reference_answers
from builders.quantization.calibration.text import calibration_windows, read_calibration_text
from builders.reference import token_digest
from builders.validation.unseen import require_other_text
from devtools.bundles import make_bundle
from registry.bundle.folder import Bundle
from registry.bundle.manifest import CalibrationEntry
from targets.calibration import CalibrationSettings
from targets.errors import CalibrationError
from targets.evaluation import EvaluationSettings


def calibrated_on(checkpoint: Checkpoint, text: Path | None, folder: Path) -> Bundle:
    windows = calibration_windows(checkpoint, CalibrationSettings(text), "light")
    entry = CalibrationEntry(level="light", text=token_digest(windows), tokens=windows.size)
    return make_bundle(folder, calibration=entry)


def test_the_very_text_of_the_calibration_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("".join(f"line {number} of my text\n" for number in range(500)), "utf-8")
    bundle = calibrated_on(tiny, tmp_path / "mine.txt", tmp_path / "bundle")
    with pytest.raises(CalibrationError, match=r"was calibrated on mine\.txt") as error:
        require_other_text(bundle, tiny, EvaluationSettings(tmp_path / "mine.txt"))
    assert "--text" in error.value.fix
    require_other_text(bundle, tiny, EvaluationSettings())


def test_nor_is_it_compared_on_a_device_with_that_text(tiny: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("".join(f"line {number} of my text\n" for number in range(500)), "utf-8")
    bundle = calibrated_on(tiny, tmp_path / "mine.txt", tmp_path / "bundle")
    manifest = bundle.manifest.model_copy(update={"checkpoint": tiny.digest})
    with pytest.raises(CalibrationError, match=r"was calibrated on mine\.txt"):
        reference_answers(replace(bundle, manifest=manifest), tiny, text=tmp_path / "mine.txt")


def test_passages_of_the_built_in_calibration_text_are_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    bundle = calibrated_on(tiny, None, tmp_path / "bundle")
    require_other_text(bundle, tiny, EvaluationSettings())
    (tmp_path / "taken.txt").write_text(read_calibration_text(CalibrationSettings()).parts[0][:3000], "utf-8")
    with pytest.raises(CalibrationError, match=r"calibration text and taken\.txt, .* share passages"):
        require_other_text(bundle, tiny, EvaluationSettings(tmp_path / "taken.txt"))


def test_an_uncalibrated_bundle_may_be_evaluated_on_anything(tiny: Checkpoint, tmp_path: Path) -> None:
    require_other_text(make_bundle(tmp_path / "bundle"), tiny, EvaluationSettings(tmp_path / "nowhere.txt"))
