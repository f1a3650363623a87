"""The grid of conversations that engines render: what a chat template may be asked for.

Most templates read a variable `tools` of the whole conversation. Phi-4-mini's reads a key `tools` of the system
message, next to its content.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

Conversation = tuple[tuple[str, str], ...]  # of roles and contents

CONVERSATIONS: tuple[Conversation, ...] = (
    (("user", "Hello"),),
    (("user", "Grüße <b>\"fett\"</b> & 'so' {{ x }} {% if y %}\n  two lines\t"),),
    (("user", "日本語 🚀"),),
    (("system", "Be brief."), ("user", "What is 2 + 2?")),
    (("user", "What is 2 + 2?"), ("assistant", " 4. \n"), ("user", "And 3 + 3?")),
)


TOOLS: tuple[dict[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'The weather of a town: "now" or later.',
            "parameters": {
                "type": "object",
                "properties": {"town": {"type": "string", "description": "e.g. Köln"}},
                "required": ["town"],
            },
        },
    },
)
_CONTENTS: dict[str, str] = {
    "plain": "What is 2 + 2?",
    "empty": "",
    "white space": "  two spaces first,\n\n a tab last\t",
    "Unicode": "Grüße, 日本語 العربية 🚀 cafe\u0301 \u200b",
    "braces": "{a: {b: 1}} }} {{{ %} {#",
    "like Jinja": "{{ bos_token }} {% for x in y %}{% endfor %} {# note #} {{ 1 + 1 }}",
    "quotes": "'single' \"double\" back\\slash <b>&amp;</b>",
    "like special tokens": "<|end|><|user|> <|system|>\n<|endoftext|></s> <s>[INST]",
}
_MOST_TURNS = 6
_TOOLS_OF_A_MESSAGE = re.compile(r"""\w(\.|\[['"])tools\b|['"]tools['"] in \w""")
_QUESTION = ("user", "What is 2 + 2?")
_REASONING = (_QUESTION, ("assistant", "<think>\nTwo and two.\n</think>\n\n4."), ("user", "And 3 + 3?"))
_TOOL_CALL = '[{"name": "weather", "arguments": {"town": "Köln"}}]'
_TOOL_ANSWER = (("user", "Is it cold in Köln?"), ("assistant", _TOOL_CALL), ("tool", '{"degrees": 3}'))
# A system message may have tools of its own, as JSON: like those of Phi-4-mini's model card, and such as are harder.
PLAIN_TOOLS = (
    '[{"name": "weather", "description": "The weather of a town", "parameters": {"town": {"description": "The town",'
    ' "type": "str", "default": "London"}}}]'
)
HARD_TOOLS = (
    '[{"name": "weather", "description": "The weather, \\"now\\" or later", "parameters": {"town": {"type": "str",'
    ' "enum": ["Paris", "K\\u00f6ln"]}, "exact": {"type": "bool", "default": true}}}]'
)


@dataclass(frozen=True)
class Chat:
    """A conversation that engines render.

    `name`: unique, for messages. `has_tools`: the template gets `TOOLS`. `message_tools`: JSON that the system message
    has as its own tools.
    """

    name: str
    messages: Conversation
    add_generation_prompt: bool = True
    has_tools: bool = False
    message_tools: str = ""

    def to_messages(self) -> list[dict[str, str]]:
        """Return the messages as engines take them."""
        own = {"tools": self.message_tools} if self.message_tools else {}
        return [
            {"role": role, "content": content, **(own if role == "system" else {})} for role, content in self.messages
        ]

    @property
    def is_plain_prompt(self) -> bool:
        """Whether it asks for an answer, without tools."""
        return self.add_generation_prompt and not self.has_tools and not self.message_tools


def reads_tools_of_messages(template: str) -> bool:
    """Return whether a template reads the tools that a message has."""
    return _TOOLS_OF_A_MESSAGE.search(template) is not None


def chats(template: str) -> tuple[Chat, ...]:
    """Return the grid of conversations of a template, with tools where it mentions them.

    Each content alone and as a system message, then 1 to 6 turns of mixed contents with a system message and without,
    with the prompt for an answer and without; an answer that begins with its reasoning.
    """
    found = [Chat(f"a user's turn, {kind}", (("user", text),)) for kind, text in _CONTENTS.items()]
    for kind, text in _CONTENTS.items():
        found.append(Chat(f"system message, {kind}", (("system", text), ("user", "Hello"))))
    texts = list(_CONTENTS.values())
    for turns in range(1, _MOST_TURNS + 1):
        for system in (False, True):
            messages = [
                ("assistant" if turn % 2 else "user", texts[(turn + turns) % len(texts)]) for turn in range(turns)
            ]
            whole = ([("system", texts[turns])] if system else []) + messages
            what = f"{turns} turns{', system message' if system else ''}"
            found += [
                Chat(f"{what}, {'prompt for' if prompts else 'no prompt for'} an answer", tuple(whole), prompts)
                for prompts in (True, False)
            ]
    with_tools = (found[0], *found[-2:])
    found.append(Chat("an answer with its reasoning", _REASONING))
    if "tools" in template:
        found += [replace(chat, name=f"{chat.name}, tools", has_tools=True) for chat in with_tools]
    if "tool" in template:
        found.append(Chat("a tool's answer", _TOOL_ANSWER))
    if reads_tools_of_messages(template):
        asked = Chat("system message with tools", (("system", "Be brief."), _QUESTION), message_tools=PLAIN_TOOLS)
        found += [asked, replace(asked, name="system message with tools, hard to write", message_tools=HARD_TOOLS)]
    return tuple(found)
