"""Whether two chat templates write the same prompts: conversations are rendered with both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builders.oracle.texts import TOOLS, Chat, chats
from builders.templates import ChatTemplateError, render_chat
from targets.errors import BuildError

_MOMENT = "2026-01-01T12:00:00"  # for templates that write the date


@dataclass(frozen=True)
class SamePrompts:
    """How many conversations were rendered, and the names of those of which the templates make different texts.

    `problem`: why that is not known; empty where it is.
    """

    rendered: int
    different: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True)
class Prompting:
    """A chat template, and the special tokens by role that it may use."""

    template: str
    special_tokens: Mapping[str, str]


def compare_prompts(before: Prompting, after: Prompting) -> SamePrompts:
    """Render the oracle's conversations by both.

    A conversation that both refuse is no difference; what one of them refuses is. Where the process that renders can't
    be started, or a template exceeds its limits, nothing is known of the prompts, and the result says so.
    """
    grid = chats(before.template + after.template)  # with tools where either mentions them
    try:
        different = [chat.name for chat in grid if _written(before, chat) != _written(after, chat)]
    except BuildError as error:
        return SamePrompts(0, (), error.problem)
    except ChatTemplateError as error:
        return SamePrompts(0, (), str(error))
    return SamePrompts(len(grid), tuple(different))


def _written(by: Prompting, chat: Chat) -> str | None:
    """Return the prompt; None where the template refuses the conversation, or can't be run.

    Raises `BuildError`, and `ChatTemplateError` where it was stopped.
    """
    try:
        return render_chat(
            by.template,
            [{"role": role, "content": content} for role, content in chat.messages],
            by.special_tokens,
            tools=TOOLS if chat.has_tools else None,
            add_generation_prompt=chat.add_generation_prompt,
            moment=_MOMENT,
        )
    except ChatTemplateError as error:
        if error.exhausted:
            raise
        return None
