"""What comes from outside is shown, and never obeyed by a terminal."""

from __future__ import annotations

import json

import pytest

from targets.errors import PhipackError
from targets.printable import is_obeyed, one_line, printable, printable_json

HOSTILE = [
    "\x1b[2J",  # clears the screen
    "\x1b]0;title\x07",
    "\x1b]8;;https://elsewhere.example\x1b\\",  # a link under another text
    "\x9b31m",  # C1's form of the same
    "\r",
    "\b",
    "\x7f",
    "\x00",
    "\N{RIGHT-TO-LEFT OVERRIDE}",
    "\N{LEFT-TO-RIGHT ISOLATE}",
    "\N{ARABIC LETTER MARK}",
    "\N{LINE SEPARATOR}",
    "\N{ZERO WIDTH SPACE}",
    "\N{ZERO WIDTH NO-BREAK SPACE}",
    "\U000e0041",  # a tag, which nothing shows
    "\udc9b",  # an undecodable byte of a file's name
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_character_that_is_obeyed_is_shown_by_its_number(text: str) -> None:
    cleaned = printable(f"before {text} after")
    assert cleaned.startswith("before ")
    assert cleaned.endswith(" after")
    assert not any(map(is_obeyed, cleaned))
    assert f"{ord(text[0]):x}" in cleaned


@pytest.mark.parametrize("text", ["plain", "two\nlines\tand a tab", "Grüße, 你好, \N{FAMILY}\u200d, a\u00a0b", "é"])
def test_what_is_not_obeyed_stays(text: str) -> None:
    assert printable(text) == text


def test_a_line_stays_one() -> None:
    assert one_line("a\r\nb\x0bc\u2028d") == "a b c d"
    assert printable("a\r\nb") == "a\nb"


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_json_has_its_own_escapes_and_the_same_content(text: str) -> None:
    document = printable_json(json.dumps({text: [text]}, ensure_ascii=False, indent=2))
    assert not any(map(is_obeyed, document))
    assert json.loads(document) == {text: [text]}


def test_an_error_holds_nothing_that_is_obeyed() -> None:
    error = PhipackError("the server answers 404 \x1b[2JOK", fix="ask \x9b31mit")
    assert str(error) == "the server answers 404 \\x1b[2JOK\n  fix: ask \\x9b31mit"
