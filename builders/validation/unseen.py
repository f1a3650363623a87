"""Whether a bundle was calibrated on the text that it is evaluated with.

A manifest names the calibration's tokens by their digest alone. So what can be known is whether they are those of the
evaluation's own text, or of the text that comes with phipack, whose passages are then looked for. Releases and builds
compare any two texts beforehand.
"""

from __future__ import annotations

from builders.checkpoint import Checkpoint
from builders.quantization.calibration.overlap import require_unseen
from builders.quantization.calibration.text import (
    CHARACTERS_READ,
    CalibrationText,
    read_calibration_text,
    windows_of_text,
)
from builders.reference import token_digest
from builders.validation.text import name_of_text, read_text
from registry.bundle.folder import Bundle
from registry.bundle.manifest import CalibrationEntry
from targets.calibration import CalibrationSettings
from targets.errors import CalibrationError
from targets.evaluation import EvaluationSettings


def require_other_text(bundle: Bundle, checkpoint: Checkpoint, settings: EvaluationSettings) -> None:
    """Refuse to evaluate a bundle on what it was calibrated on, as far as that is known.

    Raises:
        CalibrationError: it was calibrated on this very text, or on the built-in one, which shares passages with it.
    """
    entry = bundle.manifest.recipe.calibration
    if entry is None:
        return
    text, name = read_text(settings.text), name_of_text(settings.text)
    if _is_of(entry, checkpoint, CalibrationText(name, (text[:CHARACTERS_READ],))):
        raise CalibrationError(
            f"{bundle.path} was calibrated on {name}, and would be measured with what it has learned",
            fix="evaluate on another text: --text, or [evaluation] text in the project file",
        )
    built_in = read_calibration_text(CalibrationSettings())
    if settings.text is not None and _is_of(entry, checkpoint, built_in):
        require_unseen(built_in, text, name)


def _is_of(entry: CalibrationEntry, checkpoint: Checkpoint, text: CalibrationText) -> bool:
    try:
        return token_digest(windows_of_text(checkpoint, text, entry.level)) == entry.text
    except CalibrationError:  # too short to have been read
        return False
