"""What apps do with text around a model, by the engines that do it: tokens, the chat template, where an answer ends.

`text_engines.py` opens those of a bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from builders.templates import ChatTemplateError, render_chat
from targets.errors import MeasurementError

Messages = Sequence[Mapping[str, str]]
Tools = Sequence[Mapping[str, Any]]


class TemplateEngine(Protocol):
    """What renders a bundle's conversations."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text: special tokens are recognised, none are added."""
        ...

    def render(self, messages: Messages, tools: Tools | None, *, add_generation_prompt: bool) -> str | None:
        """Return a conversation in the template that it reads; None where that refuses it, or can't be rendered."""
        ...


class TextEngine(TemplateEngine, Protocol):
    """One engine's view of a bundle. No weight is read, but for `ends`."""

    @property
    def bos_id(self) -> int | None:
        """The token that begins a sequence; None where there is none."""
        ...

    @property
    def adds_bos(self) -> bool | None:
        """Whether it puts that token before a text by itself; None where the files don't say."""
        ...

    def id_of(self, token: str) -> int | None:
        """Return the id of a token by its text, from its own vocabulary; None where it has none of this text."""
        ...

    def ends(self, tokens: Sequence[int]) -> dict[int, bool]:
        """Return for each token whether an answer ends with it."""
        ...


def rendered(
    template: str | None,
    messages: Messages,
    special_tokens: Mapping[str, str],
    tools: Tools | None,
    add_generation_prompt: bool,
) -> str | None:
    """Return a conversation in a template, in the process for templates; None where that refuses it, or fails.

    Raises:
        MeasurementError: it exceeds a limit on time or memory.
    """
    if template is None:
        return None
    try:
        return render_chat(template, messages, special_tokens, tools=tools, add_generation_prompt=add_generation_prompt)
    except ChatTemplateError as error:
        if error.exhausted:
            raise MeasurementError(
                f"the chat template can't be rendered: {error}",
                fix="correct the checkpoint's chat template, and build again",
            ) from error
        return None
