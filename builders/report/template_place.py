"""Where in a chat template something stands, in words: after which text, and in which of its blocks.

That a line break is gone does not say whether it is gone from every message or from where the answer begins.
"""

from __future__ import annotations

import re

_TAG = re.compile(r"\{%[-+]?\s*(\w+)\b(.*?)[-+]?%\}|\{#.*?#\}", re.DOTALL)
_BLOCKS = ("for", "if", "macro", "call", "filter", "with")  # those that have an end
_ELSE = "else "  # in front of the tag whose else it is
_ROLE = re.compile(r"role['\"]?\]?\s*==\s*['\"](\w+)['\"]")
_TEXT = re.compile(r"[^'\"{}%]*\Z")  # of a string or of plain text, up to its end
_LONGEST = 40  # characters of what is quoted


def place_of(before: str) -> str:
    """Return the place of what follows `before`, the template's text up to it; empty for its start."""
    parts = []
    if (text := _TEXT.search(before)) and text[0].strip():
        parts.append(f"after {quoted(_end(text[0]))}")
    blocks = _open_blocks(before)
    if blocks:
        inner = blocks[-1]
        where = "in the else of" if inner.startswith(_ELSE) else "in"
        parts.append(f"{where} {quoted(_shortened(inner.removeprefix(_ELSE)))}{_which_turn(blocks)}")
    if not parts and before.strip():
        parts.append(f"after {quoted(_end(before.rstrip()))}")
    return ", ".join(parts)


def quoted(text: str) -> str:
    """Return a part of a template in quotation marks, its white space as a template's string writes it."""
    shown = text.replace("\n", "\\n").replace("\t", "\\t")
    return f"\N{LEFT DOUBLE QUOTATION MARK}{shown}\N{RIGHT DOUBLE QUOTATION MARK}"


def _open_blocks(text: str) -> list[str]:
    """Return the tags of the blocks that a text has begun and not ended, the outermost first."""
    found: list[str] = []
    for tag in _TAG.finditer(text):
        name = tag[1] or ""
        if name in _BLOCKS:
            found.append(tag[0])
        elif name == "elif" and found:
            found[-1] = tag[0]
        elif name == "else" and found and not found[-1].startswith(_ELSE):
            found[-1] = f"{_ELSE}{found[-1]}"
        elif name.startswith("end") and name[3:] in _BLOCKS and found:
            found.pop()
    return found


def _which_turn(blocks: list[str]) -> str:
    """Return which part of a conversation the innermost block that says so is for; empty where none does."""
    for block in reversed(blocks):
        if block.startswith(_ELSE):
            continue
        if "add_generation_prompt" in block:
            return ": where the answer begins"
        if role := _ROLE.search(block):
            return f": in each message of the role {role[1]}"
        if re.match(r"\{%[-+]?\s*for\b", block):
            return ": in each message" if "message" in block else ""
    return ""


def _end(text: str) -> str:
    text = text.lstrip("\n ")
    return text if len(text) <= _LONGEST else f"\N{HORIZONTAL ELLIPSIS}{text[-_LONGEST:]}"


def _shortened(text: str) -> str:
    return text if len(text) <= 2 * _LONGEST else f"{text[: 2 * _LONGEST]}\N{HORIZONTAL ELLIPSIS}"
