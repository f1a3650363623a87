"""Calibration text: what comes with phipack, or a file, cut into windows of ids by the checkpoint's own tokenizer.

The built-in text (`texts/`, whose licences are in LICENCES.md) has prose in seven languages, code, and chat turns in
the checkpoint's own template: English prose alone makes some matrices up to 12 % worse on Chinese. Its parts follow
each other in rounds of as many tokens as `light` reads, so that `light` has every kind of text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint
from builders.tokenizer import Tokenizer, render_conversation, tokenizer_of
from registry.files.digests import digest_of_bytes
from targets.calibration import Calibration, CalibrationSettings
from targets.errors import CalibrationError
from targets.stated_path import require_kept

BUILT_IN_NAME = "the built-in calibration text"
WINDOW = 512  # tokens that are read together
TOKENS: Mapping[Calibration, int] = {"light": 2048, "full": 16_384}
_PARTS = ("english", "code", "german", "french", "spanish", "chinese", "japanese", "russian")
CHARACTERS_READ = 1 << 22  # of a file; `full` takes some 70,000
_FIX = "use a longer text, or none: the text that comes with phipack is long enough"

Conversation = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class CalibrationText:
    """A text before it is cut. `parts`: of different kinds. `conversations`: rendered in a checkpoint's template."""

    name: str
    parts: tuple[str, ...]
    conversations: tuple[Conversation, ...] = ()

    @property
    def plain(self) -> str:
        """All of it, without a template."""
        turns = [turn["content"] for conversation in self.conversations for turn in conversation]
        return "\n".join((*self.parts, *turns))

    @cached_property
    def digest(self) -> str:
        """`sha256:<hex>` of it, without a tokenizer."""
        return digest_of_bytes(self.plain.encode())


def read_calibration_text(settings: CalibrationSettings) -> CalibrationText:
    """Read the text that settings name, or the built-in one. Raises `CalibrationError` where it is no UTF-8."""
    if settings.text is None:
        folder = resources.files("builders.quantization.calibration").joinpath("texts")
        parts = tuple(folder.joinpath(f"{name}.txt").read_text("utf-8") for name in _PARTS)
        conversations = json.loads(folder.joinpath("chat.json").read_text("utf-8"))
        return CalibrationText(BUILT_IN_NAME, parts, tuple(conversations))
    return CalibrationText(str(settings.text), (_read(settings.text),))


def calibration_windows(
    checkpoint: Checkpoint, settings: CalibrationSettings, calibration: Calibration
) -> NDArray[np.int64]:
    """Return windows of token ids [W, T] for `light` (2,048 tokens in all) or `full` (16,384).

    Windows have 512 tokens, or the model's context where it is shorter, and start with BOS where the tokenizer puts
    one. Those of a file are spread evenly over it.

    Raises:
        CalibrationError: the text can't be read, or is too short.
        CheckpointError: the tokenizer or the chat template is damaged, or belongs to another model.
    """
    return windows_of_text(checkpoint, read_calibration_text(settings), calibration)


def windows_of_text(checkpoint: Checkpoint, text: CalibrationText, calibration: Calibration) -> NDArray[np.int64]:
    """Return the windows of a text that was read: see `calibration_windows`."""
    tokenizer = tokenizer_of(checkpoint)
    start = tokenizer.encode("", add_special_tokens=True)
    length = min(WINDOW, checkpoint.architecture.context_length)
    count, fresh = -(-TOKENS[calibration] // length), length - len(start)
    kinds = [tokenizer.encode(part) for part in text.parts]
    kinds += [_chat_ids(checkpoint, tokenizer, text)]
    kinds = [ids for ids in kinds if ids]
    if (found := sum(map(len, kinds))) < count * fresh:
        raise CalibrationError(
            f"{text.name} has {found:,} tokens; {calibration} calibration reads {count * fresh:,}", fix=_FIX
        )
    rounds = count if len(kinds) == 1 else max(1, TOKENS[calibration] // TOKENS["light"])
    body = np.asarray(_in_rounds(kinds, count * fresh, rounds), dtype=np.int64)
    _require_known(checkpoint, int(body.max()))
    windows = np.empty((count, length), dtype=np.int64)
    windows[:, : len(start)] = start
    windows[:, len(start) :] = body.reshape(count, fresh)
    return windows


def _read(path: Path) -> str:
    require_kept(path, "calibration text", CalibrationError)
    try:
        with path.open(encoding="utf-8") as stream:
            return stream.read(CHARACTERS_READ)
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(
            f"{path}: calibration text can't be read: {error}", fix="name a UTF-8 text file"
        ) from error


def _chat_ids(checkpoint: Checkpoint, tokenizer: Tokenizer, text: CalibrationText) -> list[int]:
    """Return the ids of the conversations that the template does not refuse; none without a template."""
    if checkpoint.chat_template is None:
        return []
    ids: list[int] = []
    for conversation in text.conversations:
        what = "a conversation of the calibration text"
        rendered = render_conversation(checkpoint, tokenizer, what, conversation, add_generation_prompt=False)
        ids += tokenizer.encode(rendered or "")
    return ids


def _in_rounds(kinds: Sequence[Sequence[int]], needed: int, rounds: int) -> list[int]:
    """Return `needed` ids, in rounds that have of each kind a share like its share of all, spread over its length."""
    total = sum(map(len, kinds))
    ends = [needed * number // rounds for number in range(rounds + 1)]
    chosen: list[int] = []
    for number in range(rounds):
        size = ends[number + 1] - ends[number]
        this_round: list[int] = []
        for ids in kinds:
            share = -(-len(ids) * size // total)
            first = (len(ids) - share) * number // max(1, rounds - 1)
            this_round += ids[first : first + share]
        chosen += this_round[:size]
    return chosen


def _require_known(checkpoint: Checkpoint, largest: int) -> None:
    if largest >= (size := checkpoint.architecture.vocabulary_size):
        raise CalibrationError(
            f"{checkpoint.path}: the tokenizer gives id {largest}, past the vocabulary of {size}",
            fix="the tokenizer and the weights belong to different models: copy the tokenizer's files of this model",
        )
