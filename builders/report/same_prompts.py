"""Whether two chat templates write the same prompts: conversations are rendered with both.

Where they do not, each message of the conversation gets a word at its start and one at its end that no template has,
and it is rendered again: a word that only the template before writes is of a message that the model no longer reads.
Other markers, trimmed white space, escapes and another default system message lose none of these words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from builders.templates import ChatTemplateError, render_chat
from builders.templates.conversations import TOOLS, Chat, chats
from targets.errors import BuildError

_MOMENT = "2026-01-01T12:00:00"  # for templates that write the date
EARLIER_TURNS, SYSTEM_MESSAGE = "earlier turns", "the system message"
LAST_TURN, TOOL_LIST = "the last turn", "the list of tools"
_PARTS = (EARLIER_TURNS, SYSTEM_MESSAGE, LAST_TURN, TOOL_LIST)


@dataclass(frozen=True)
class Example:
    """A conversation, and what both templates make of it; None where one refuses it."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class SamePrompts:
    """How many conversations were rendered, and the names of those of which the templates make different texts.

    What both templates refuse is not among `rendered`. `problem`: why that is not known; empty where it is. `lost`:
    those of `different` whose text is no longer whole in the prompt, and `lost_parts`: text of what, in how many of
    them. `refused`: those that only the template after refuses. `longest`: messages of the longest conversation.
    `only_with_tools`: whether all of `different` have a list of tools. `example`: one with different texts; None where
    there is none.
    """

    rendered: int
    different: tuple[str, ...]
    problem: str = ""
    lost: tuple[str, ...] = ()
    lost_parts: Mapping[str, int] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    longest: int = 0
    only_with_tools: bool = False
    example: Example | None = None


@dataclass(frozen=True)
class Prompting:
    """A chat template, and the special tokens by role that it may use."""

    template: str
    special_tokens: Mapping[str, str]


def compare_prompts(before: Prompting, after: Prompting) -> SamePrompts:
    """Render the oracle's conversations, and a few long ones, by both.

    A conversation that both refuse is no difference; what one of them refuses is. Where the process that renders can't
    be started, a template exceeds its limits, or both refuse every conversation, nothing is known of the prompts, and
    the result says so.
    """
    grid = (*chats(before.template + after.template), *_LONG)  # with tools where either mentions them
    try:
        written = {chat: (_written(before, chat), _written(after, chat)) for chat in grid}
        rendered = [chat for chat, texts in written.items() if texts != (None, None)]
        if not rendered:
            return SamePrompts(0, (), f"both templates refuse each of {len(grid)} conversations")
        different = [chat for chat in rendered if written[chat][0] != written[chat][1]]
        refused = [chat for chat in different if written[chat][1] is None]
        lost = {chat.name: _lost(before, after, chat) for chat in different if chat not in refused}
        example = _example(before, after, different)
    except BuildError as error:
        return SamePrompts(0, (), error.problem)
    except ChatTemplateError as error:
        return SamePrompts(0, (), str(error))
    numbers = {part: sum(part in parts for parts in lost.values()) for part in _PARTS}
    return SamePrompts(
        len(rendered),
        tuple(chat.name for chat in different),
        lost=tuple(name for name, parts in lost.items() if parts),
        lost_parts={part: number for part, number in numbers.items() if number},
        refused=tuple(chat.name for chat in refused),
        longest=max(len(chat.messages) for chat in rendered),
        only_with_tools=bool(different) and all(chat.has_tools or chat.message_tools for chat in different),
        example=example,
    )


_USUAL = Chat(
    "a system message, two questions and an answer",
    (
        ("system", "Answer in one sentence."),
        ("user", "My name is Ada."),
        ("assistant", "Hello, Ada."),
        ("user", "What is my name?"),
    ),
)


def _long(turns: int, *, has_system: bool) -> Chat:
    """Return a conversation as long as a patient user's: a template may leave out what is far back."""
    said = [("assistant" if turn % 2 else "user", f"Message {turn + 1}.") for turn in range(turns)]
    system = (("system", "Answer in one sentence."),) if has_system else ()
    return Chat(f"{turns} turns{', system message' if has_system else ''}", (*system, *said))


_LONG = tuple(_long(turns, has_system=has_system) for turns in (13, 41) for has_system in (False, True))


def _example(before: Prompting, after: Prompting, different: Sequence[Chat]) -> Example | None:
    """Return a usual conversation, where it becomes another text, or else the shortest one."""
    shortest_first = sorted(different, key=lambda chat: sum(len(content) for _, content in chat.messages))
    for chat in (_USUAL, *shortest_first) if different else ():
        found = Example(chat.name, _written(before, chat), _written(after, chat))
        if found.before != found.after:
            return found
    return None


def _lost(before: Prompting, after: Prompting, chat: Chat) -> set[str]:
    """Return the parts of a conversation of which the template before writes a text that the one after leaves out."""
    marked = replace(
        chat,
        messages=tuple(
            (role, f"{_word(number, 'start')} {content} {_word(number, 'end')}")
            for number, (role, content) in enumerate(chat.messages)
        ),
        message_tools=chat.message_tools.replace(TOOLS[0]["function"]["name"], _TOOL),
    )
    tools = deepcopy(TOOLS)
    tools[0]["function"]["name"] = _TOOL
    old, new = (_written(by, marked, tools) for by in (before, after))
    if old is None or new is None:
        return set()
    return {part for word, part in _words(chat) if word in old.casefold() and word not in new.casefold()}


def _words(chat: Chat) -> Iterator[tuple[str, str]]:
    """Yield the words that were put into a conversation, each with the part that it is of."""
    last = len(chat.messages) - 1
    for number, (role, _) in enumerate(chat.messages):
        part = SYSTEM_MESSAGE if role == "system" else LAST_TURN if number == last else EARLIER_TURNS
        yield from ((_word(number, place), part) for place in ("start", "end"))
    yield _TOOL, TOOL_LIST


_TOOL = "qxtool"


def _word(number: int, place: str) -> str:
    return f"qx{number}{place}"


def _written(by: Prompting, chat: Chat, tools: Sequence[Mapping[str, Any]] = TOOLS) -> str | None:
    """Return the prompt; None where the template refuses the conversation, or can't be run.

    Raises `BuildError`, and `ChatTemplateError` where it was stopped.
    """
    try:
        return render_chat(
            by.template,
            chat.to_messages(),
            by.special_tokens,
            tools=tools if chat.has_tools else None,
            add_generation_prompt=chat.add_generation_prompt,
            moment=_MOMENT,
        )
    except ChatTemplateError as error:
        if error.exhausted:
            raise
        return None
