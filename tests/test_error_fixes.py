"""Errors and docstrings, read from the source: every error has a fix, and the words are plain English."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("phipack", "builders", "registry", "targets")
BASES = ("PhipackError", "RefusedValueError")  # RefusedValueError carries its fix into a PhipackError

# Words that no message, help text or docstring uses, and what is written instead.
DIALECT = {
    r"anew": "again",
    r"lacks?": "is missing, has no",
    r"beside": "next to, with, relative to",
    r"mends?": "fix",
    r"(?:is|are)\s+to\s+be": "must be",
    r"told": "reported",
}
_DIALECT_WORD = re.compile(rf"\b(?:{'|'.join(DIALECT)})\b", re.IGNORECASE)
_GIVE = re.compile(r"Gives?\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Function


@dataclass
class ErrorClass:
    """An error class as its source defines it."""

    bases: tuple[str, ...]
    fix_default: ast.expr | None = None  # of a constructor of its own
    own_constructor: bool = False
    takes_fix: bool = True


@dataclass
class Classes:
    """All error classes of the product, by name."""

    found: dict[str, ErrorClass] = field(default_factory=dict)

    def is_error(self, name: str) -> bool:
        if name in BASES:
            return True
        return name in self.found and any(self.is_error(base) for base in self.found[name].bases if base != name)

    def needs_fix(self, name: str) -> bool:
        """True unless the class, or one that it inherits its constructor from, supplies the fix itself."""
        kind = self.found.get(name)
        if kind is None or name in BASES:
            return True
        if kind.own_constructor:
            return kind.takes_fix and (kind.fix_default is None or _is_none(kind.fix_default))
        return all(self.needs_fix(base) for base in kind.bases if self.is_error(base))


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _name(node: ast.expr) -> str:
    """The last part of a dotted name, empty for any other expression."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _error_class(node: ast.ClassDef) -> ErrorClass:
    kind = ErrorClass(tuple(_name(base) for base in node.bases))
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            arguments = statement.args
            defaults = {a.arg: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)}
            kind.own_constructor = True
            kind.takes_fix = "fix" in defaults
            kind.fix_default = defaults.get("fix")
    return kind


@dataclass(frozen=True)
class Source:
    """A parsed file, and the nodes that the tests look at: found in one walk for all of them."""

    tree: ast.Module
    classes: list[ast.ClassDef] = field(default_factory=list)
    strings: list[ast.Constant] = field(default_factory=list)
    documented: list[Documented] = field(default_factory=list)

    @classmethod
    def of(cls, text: str) -> Source:
        source = cls(ast.parse(text))
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Constant):
                if isinstance(node.value, str):
                    source.strings.append(node)
            elif isinstance(node, Documented):
                source.documented.append(node)
                if isinstance(node, ast.ClassDef):
                    source.classes.append(node)
        return source


def classes_in(sources: Iterable[Source]) -> Classes:
    return Classes({node.name: _error_class(node) for source in sources for node in source.classes})


def constructions(tree: ast.Module, classes: Classes) -> Iterator[ast.Call]:
    """Yield the calls that make an error which needs a fix.

    They are calls of an error class by name, of a parameter annotated `type[…Error]`, of `super().__init__` in an error
    class, and of `type(error)` in a `raise` statement.
    """
    yield from _constructions(tree, classes, frozenset())


def _constructions(node: ast.AST, classes: Classes, aliases: frozenset[str]) -> Iterator[ast.Call]:
    if isinstance(node, Function):
        every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        aliases |= {argument.arg for argument in every if _is_error_type(argument.annotation, classes)}
    if isinstance(node, ast.ClassDef) and any(classes.is_error(_name(base)) for base in node.bases):
        yield from (call for call in ast.walk(node) if isinstance(call, ast.Call) and _is_super_constructor(call))
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and _is_type_of(node.exc.func):
        yield node.exc
    if isinstance(node, ast.Call) and _makes_error(node.func, classes, aliases):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _constructions(child, classes, aliases)


def _makes_error(function: ast.expr, classes: Classes, aliases: frozenset[str]) -> bool:
    name = _name(function)
    return name in aliases or (classes.is_error(name) and classes.needs_fix(name))


def _is_type_of(function: ast.expr) -> bool:
    return isinstance(function, ast.Call) and _name(function.func) == "type"


def _is_error_type(annotation: ast.expr | None, classes: Classes) -> bool:
    if not isinstance(annotation, ast.Subscript) or _name(annotation.value) != "type":
        return False
    return any(classes.is_error(_name(node)) for node in ast.walk(annotation.slice) if isinstance(node, ast.expr))


def _is_super_constructor(call: ast.Call) -> bool:
    function = call.func
    if not isinstance(function, ast.Attribute) or function.attr != "__init__":
        return False
    return isinstance(function.value, ast.Call) and _name(function.value.func) == "super"


def has_fix(call: ast.Call) -> bool:
    return any(keyword.arg == "fix" and not _is_none(keyword.value) for keyword in call.keywords)


def dialect_in(source: Source) -> Iterator[tuple[int, str]]:
    """Yield the line and word of each dialect word in string literals: messages, help texts and docstrings."""
    for node in source.strings:
        assert isinstance(node.value, str)
        for match in _DIALECT_WORD.finditer(node.value):
            lines_before = node.value[: match.start()].count("\n") if node.end_lineno != node.lineno else 0
            yield node.lineno + lines_before, match[0]


def docstrings_in(source: Source) -> Iterator[tuple[int, str]]:
    for node in source.documented:
        text = ast.get_docstring(node)
        if text is not None:
            yield node.body[0].lineno, text


@pytest.fixture(scope="module")
def sources() -> dict[Path, Source]:
    files = [path for package in PRODUCT for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT): Source.of(path.read_text("utf-8")) for path in files}


def _listed(found: set[str]) -> str:
    return "\n".join(sorted(found))


def test_every_error_has_a_fix(sources: dict[Path, Source]) -> None:
    classes = classes_in(sources.values())
    errors = {path: list(constructions(source.tree, classes)) for path, source in sources.items()}
    missing = {f"{path}:{call.lineno}" for path, calls in errors.items() for call in calls if not has_fix(call)}
    assert sum(map(len, errors.values())) > 250
    assert not missing, _listed(missing)


def test_strings_are_in_plain_english(sources: dict[Path, Source]) -> None:
    found = {f"{path}:{line}: {word!r}" for path, source in sources.items() for line, word in dialect_in(source)}
    assert not found, _listed(found)


def test_docstrings_do_not_open_with_give(sources: dict[Path, Source]) -> None:
    found = {
        f"{path}:{line}: {text.splitlines()[0]}"
        for path, source in sources.items()
        for line, text in docstrings_in(source)
        if _GIVE.match(text)
    }
    assert not found, _listed(found)


SAMPLE = '''
class OwnError(StoreError):
    """Give up."""
    def __init__(self, problem: str, *, fix: str = "try again") -> None:
        super().__init__(problem, fix=fix)

class BareError(StoreError):
    def __init__(self, problem: str) -> None:
        super().__init__(problem)

def read(kind: type[PhipackError], error: PhipackError) -> None:
    raise StoreError("it lacks a blob")
    raise errors.StoreError("no blob", fix=None)
    raise kind("no blob")
    raise type(error)(error.problem)
    raise StoreError("no blob", fix=f"mend {kind} anew")
    raise OwnError("no blob")
    raise ValueError("no blob besides this")
'''
STORE_ERROR = "class StoreError(PhipackError): ..."


def test_each_kind_of_construction_is_found() -> None:
    sample = Source.of(SAMPLE)
    classes = classes_in([Source.of(STORE_ERROR), sample])
    calls = list(constructions(sample.tree, classes))
    assert sorted(call.lineno for call in calls if not has_fix(call)) == [9, 12, 13, 14, 15]
    assert sorted(call.lineno for call in calls if has_fix(call)) == [5, 16]
    assert sorted(dialect_in(sample)) == [(12, "lacks"), (16, "anew"), (16, "mend")]
    assert [text for _, text in docstrings_in(sample) if _GIVE.match(text)] == ["Give up."]
