r"""Text that comes from outside, for a terminal or a log: nothing in it moves a cursor.

Servers, manifests, models and other people's notes hold what a terminal would obey: escape sequences (ESC, C1),
carriage returns, and Unicode's marks that turn a line around. Each such character is shown by its number, `\x1b`. All
that the command line prints passes here on its way out, and so does the text of every error.
"""

from __future__ import annotations

import json
import unicodedata

_OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # control, format, surrogates, separators of lines and paragraphs
_HARMLESS = frozenset("\n\t\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}")  # the last two: of scripts and emoji


def printable(text: str) -> str:
    """Return a text with every character that a terminal would obey shown by its number; its line feeds stay."""
    if _is_plain(text):
        return text
    return "".join(_shown(one) if is_obeyed(one) else one for one in text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """Return the same on one line."""
    return printable(" ".join(text.splitlines()))


def printable_json(document: str) -> str:
    """Return JSON in which those characters, which stand in strings alone, are written as JSON's own escapes."""
    if _is_plain(document):
        return document
    return "".join(json.dumps(one)[1:-1] if is_obeyed(one) else one for one in document)


def is_obeyed(letter: str) -> bool:
    """Return True for a character that a terminal obeys instead of showing it."""
    return not letter.isprintable() and letter not in _HARMLESS and unicodedata.category(letter) in _OBEYED


def _is_plain(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def _shown(letter: str) -> str:
    number = ord(letter)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
