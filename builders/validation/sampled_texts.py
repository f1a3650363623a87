"""The texts of several kinds that the suites `quick` and `full` read in addition: English, code, German, Chinese, chat.

    texts/general.txt    English prose; the evaluation's own text by default
    texts/code.txt …     one file a kind; licences in texts/LICENCES.md
    texts/chat.json      conversations, rendered in the checkpoint's own chat template; left out where it has none

Each is read from its beginning, in windows as the evaluation's text is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint
from builders.tokenizer import Tokenizer, render_conversation
from builders.validation.text import BUILT_IN_NAME, name_of_text, read_built_in, read_text, require_known, windows_of
from targets.evaluation import EvaluationSettings, Suite

ENGLISH = "english"
_FILES = {"code": "code.txt", "german": "german.txt", "chinese": "chinese.txt"}
_CHAT = "chat"
KINDS_OF_TEXT = (ENGLISH, *_FILES, _CHAT)
_TOKENS: Mapping[Suite, int] = {"quick": 256, "full": 1024}  # of each text


def plain_texts(settings: EvaluationSettings) -> dict[str, str]:
    """Return all that an evaluation reads, by names for messages, without a template: its own text first."""
    name = name_of_text(settings.text)
    is_mistakable = settings.text is not None and name.startswith(BUILT_IN_NAME)  # it would take the other one's place
    found = {f"the file {name}" if is_mistakable else name: read_text(settings.text)}
    if settings.suite not in _TOKENS:
        return found
    texts = {kind: read_built_in(file) for kind, file in _FILES.items()}
    texts[_CHAT] = "\n".join(turn["content"] for turns in _conversations() for turn in turns)
    return found | {BUILT_IN_NAME: read_text(None)} | {f"{BUILT_IN_NAME} {kind}": text for kind, text in texts.items()}


def text_windows(
    checkpoint: Checkpoint, tokenizer: Tokenizer, settings: EvaluationSettings, longest: int
) -> dict[str, NDArray[np.int64]]:
    """Return windows [W, T] of every text that is read in addition to the evaluation's own; none for other suites.

    `longest`: of a window, in tokens.

    Raises:
        CheckpointError: the chat template fails.
        MeasurementError: the tokenizer has ids past the vocabulary.
    """
    if settings.suite not in _TOKENS:
        return {}
    tokens = _TOKENS[settings.suite]
    texts = {kind: read_built_in(file) for kind, file in _FILES.items()} | _chat(checkpoint, tokenizer)
    if settings.text is not None:
        texts = {ENGLISH: read_text(None)} | texts
    length = sampled_window(settings, longest)
    found = {name: windows_of(tokenizer, text, count=tokens // length, length=length) for name, text in texts.items()}
    for windows in found.values():
        require_known(checkpoint, windows)
    return found


def sampled_window(settings: EvaluationSettings, longest: int) -> int:
    """Return the tokens of a window of these texts; 0 where none is read."""
    return min(settings.window, longest, _TOKENS.get(settings.suite, 0))


def sampled_windows(settings: EvaluationSettings, longest: int, *, has_chat: bool) -> int:
    """Return how many windows of these texts are read. `has_chat`: the checkpoint has a chat template."""
    length = sampled_window(settings, longest)
    texts = len(_FILES) + has_chat + (settings.text is not None)
    return texts * (_TOKENS[settings.suite] // length) if length else 0


def _chat(checkpoint: Checkpoint, tokenizer: Tokenizer) -> dict[str, str]:
    if checkpoint.chat_template is None:
        return {}
    what = "a conversation of the built-in evaluation text"
    rendered = [
        render_conversation(checkpoint, tokenizer, what, turns, add_generation_prompt=False)
        for turns in _conversations()
    ]
    accepted = [text for text in rendered if text is not None]
    return {_CHAT: "".join(accepted)} if accepted else {}


def _conversations() -> list[list[dict[str, str]]]:
    found: list[list[dict[str, str]]] = json.loads(read_built_in("chat.json"))
    return found
