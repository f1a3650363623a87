"""Lines of keys in TOML: a writer that records the line of each key, compared with the scanner that finds them."""

from __future__ import annotations

import datetime as dt
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.toml_lines import KeyPath, key_lines
from tests.support.cases import examples

TRICKS = [
    "[fake]",
    "fake = 1",
    "# no comment",
    '"',
    "'",
    "a.b",
    "]",
    "}",
    ",",
    "\\",
    "\n",
    "\n[[fake]]\nfake = 2\n",
    "é",
]
keys = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,4}", fullmatch=True), st.sampled_from(["", "a.b", "q'", 'd"', "[x]", "é #"])
)
texts = st.lists(st.sampled_from([*TRICKS, "x", " "]), max_size=5).map("".join)
scalars = st.one_of(
    st.integers(-(10**6), 10**6),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    st.just(dt.date(1979, 5, 27)),
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
).flatmap(lambda value: st.dictionaries(keys, st.just(value) | scalars, max_size=4))


class Writer:
    """Writes a document in any of TOML's forms and records the line of each path."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[KeyPath, int] = {}

    def choose(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def note(self, path: KeyPath) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def end_line(self) -> None:
        self.text += self.choose("\n", "  # [c]\n", "\n\n", "\n  # k = 1\n", "\r\n")

    def table(self, content: dict[str, Any], path: KeyPath, names: tuple[str, ...]) -> None:
        """Write a table's own keys, then the tables below it that get headers."""
        later = []
        for key, value in content.items():
            below = isinstance(value, dict) or (value and isinstance(value, list) and all_tables(value))
            if below and self.choose(True, False):
                later.append((key, value))
            elif isinstance(value, dict) and value and self.choose(True, False):
                self.dotted(value, (*path, key), self.key(key))
            else:
                self.note((*path, key))
                self.text += self.choose("", "\t") + self.key(key) + self.choose("=", " = ")
                self.value(value, (*path, key))
                self.end_line()
        for key, value in later:
            if isinstance(value, dict):
                self.note((*path, key))
                self.header("[", "]", (*names, key))
                self.table(value, (*path, key), (*names, key))
                continue
            for place, element in enumerate(value):
                self.note((*path, key))
                self.note((*path, key, place))
                self.header("[[", "]]", (*names, key))
                self.table(element, (*path, key, place), (*names, key))

    def header(self, opening: str, closing: str, names: tuple[str, ...]) -> None:
        space = self.choose("", " ")
        self.text += opening + space + self.choose(".", " . ").join(map(self.key, names)) + space + closing
        self.end_line()

    def dotted(self, content: dict[str, Any], path: KeyPath, prefix: str) -> None:
        """Write a table as `a.b = …` lines."""
        for key, value in content.items():
            self.note(path)
            self.note((*path, key))
            self.text += prefix + self.choose(".", " .\t") + self.key(key) + " = "
            self.value(value, (*path, key))
            self.end_line()

    def value(self, value: Any, path: KeyPath) -> None:
        if isinstance(value, list):
            self.text += "[" + self.choose("", "\n", " # [\n")
            for place, element in enumerate(value):
                self.note((*path, place))
                self.value(element, (*path, place))
                self.text += (
                    self.choose(",", " ,\n", ", # ]\n") if place + 1 < len(value) else self.choose("", ",", "\n")
                )
            self.text += "]"
        elif isinstance(value, dict):
            self.text += "{" + self.choose("", " ")
            for place, (key, element) in enumerate(value.items()):
                self.text += ", " if place else ""
                self.note((*path, key))
                self.text += self.key(key) + " = "
                self.value(element, (*path, key))
            self.text += " }"
        elif isinstance(value, str):
            self.text += self.string(value)
        elif isinstance(value, bool):
            self.text += str(value).lower()
        else:
            self.text += str(value)

    def key(self, key: str) -> str:
        bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
        return key if bare and self.choose(True, False) else basic(key)

    def string(self, text: str) -> str:
        forms = [basic(text)]
        if "'" not in text and "\n" not in text:
            forms.append(f"'{text}'")
        if "'''" not in text and not text.startswith("\n"):
            forms.append(f"'''{text}'''" if not text.endswith("'''") else basic(text))
        if "\\" not in text and '"""' not in text and not text.startswith("\n"):
            forms.append(f'"""{text}"""')
        return str(self.choose(*forms))


def basic(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def all_tables(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def paths_in(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path, *(found for key, below in inner for found in paths_in(below, (*path, key)))}


@given(documents, st.data())
@settings(max_examples=examples(300), deadline=None)
def test_every_key_is_found_on_its_line(document: dict[str, Any], data: st.DataObject) -> None:
    writer = Writer(data.draw)
    writer.table(document, (), ())
    assert tomllib.loads(writer.text) == document  # otherwise the writer is wrong
    assert key_lines(writer.text) == writer.lines
    assert set(writer.lines) | {()} >= paths_in(document)


@pytest.mark.parametrize(
    ("source", "path", "line"),
    [
        ('a = """\nb = 1\n"""\nb = 2', ("b",), 4),
        ("a = '''\n[b]'''\n[b]", ("b",), 3),
        ("[[c]]\n[[c]]\nx = 1", ("c", 1, "x"), 3),
        ("[[c]]\n[c.d]\n[[c]]\n[c.d]", ("c", 1, "d"), 4),
        ("[[c]]\n[[c.e]]\n[[c.e]]\n[[c]]\n[[c.e]]", ("c", 1, "e", 0), 5),
        ("c = [\n {a = 1},\n {a = 2}]", ("c", 1, "a"), 3),
        ("[a.b]\n[a]\nx = 1", ("a",), 2),
        ("d = 1979-05-27 07:32:00\ne = 1", ("e",), 2),
        ('"a\\u0062" = 1', ("ab",), 1),
        ('s = """a\\"""" # one quote inside\nt = 1', ("t",), 2),
        ('s = """"two"""""\nt = 1', ("t",), 2),
    ],
)
def test_misleading_forms_are_scanned_correctly(source: str, path: KeyPath, line: int) -> None:
    tomllib.loads(source)
    assert key_lines(source)[path] == line


def test_lines_before_the_deepest_nesting_are_found() -> None:
    depth = 1
    while True:
        try:
            tomllib.loads("a = " + "[" * depth * 2 + "]" * depth * 2)
        except RecursionError:
            break
        depth *= 2
    assert key_lines("first = 1\ndeep = " + "[" * depth * 2 + "]" * depth * 2)[("first",)] == 1
