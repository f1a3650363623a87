"""Evaluation text: held-out English cut into windows of token ids by the checkpoint's own tokenizer."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint
from builders.tokenizer import Tokenizer
from targets.errors import MeasurementError
from targets.evaluation import EvaluationSettings
from targets.stated_path import require_kept

BUILT_IN_NAME = "the built-in text"
BUILT_IN = "general.txt"  # our own prose, so that a bundle can be validated without any other text


def read_text(path: Path | None) -> str:
    """Read a text file, or the built-in text. Raises `MeasurementError` where it can't be read as UTF-8."""
    if path is None:
        return read_built_in(BUILT_IN)
    require_kept(path, "the evaluation text", MeasurementError)
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MeasurementError(
            f"{path}: evaluation text can't be read: {error}", fix="name a UTF-8 text file"
        ) from error


def read_built_in(file: str) -> str:
    """Return one of the texts that come with phipack (`texts/`), by its file's name."""
    return resources.files("builders.validation").joinpath("texts", file).read_text("utf-8")


def name_of_text(path: Path | None) -> str:
    """Return what messages call a text."""
    return BUILT_IN_NAME if path is None else path.name


def window_length(settings: EvaluationSettings, exact_length: int) -> int:
    """Return the tokens of a window of the evaluation's own text. `exact_length`: of the bundle."""
    return min(settings.window, exact_length, settings.tokens)


def windows_of(tokenizer: Tokenizer, text: str, *, count: int, length: int) -> NDArray[np.int64]:
    """Return a text cut into windows of ids, [count, length]. Each starts with BOS where the tokenizer puts one.

    Raises:
        MeasurementError: the text is too short.
    """
    start = tokenizer.encode("", add_special_tokens=True)
    body = tokenizer.encode(text)
    fresh = length - len(start)
    if length < 2 or fresh < 1:
        raise MeasurementError(
            f"windows of {length} tokens are too short to predict anything in",
            fix="ask for more --tokens, or set a longer window under [evaluation] in the project file",
        )
    if len(body) < count * fresh:
        raise MeasurementError(
            f"the evaluation text has {len(body)} tokens; {count} windows of {length} need {count * fresh}",
            fix="use a longer --text, or ask for fewer --tokens",
        )
    rows = [start + body[number * fresh : (number + 1) * fresh] for number in range(count)]
    return np.asarray(rows, dtype=np.int64)


def require_known(checkpoint: Checkpoint, windows: NDArray[np.int64]) -> None:
    """Refuse ids that the checkpoint's vocabulary does not have. Raises `MeasurementError`."""
    if windows.max() >= checkpoint.architecture.vocabulary_size:
        raise MeasurementError(
            f"{checkpoint.path}: the tokenizer gives id {windows.max()}, past the vocabulary of "
            f"{checkpoint.architecture.vocabulary_size}",
            fix="the tokenizer and the weights belong to different models: copy the tokenizer's files of this model",
        )
