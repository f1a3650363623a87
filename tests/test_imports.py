"""Who may import whom, outside of the wheel. import-linter holds the rest (pyproject.toml)."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("phipack", "builders", "registry", "targets")


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, and every name that may be one, wherever in the file."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or '.'}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "import " in node.value:
            yield from _in_a_program(node.value)


def _in_a_program(text: str) -> Iterator[str]:
    """Imports of a program for another process, which stands in a string."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 4 and words[0] == "from" and words[2] == "import":
            yield from (f"{words[1]}.{name.rstrip(',')}" for name in words[3:])
        elif len(words) >= 2 and words[0] == "import":
            yield words[1]


def below(*packages: str) -> Callable[[str], bool]:
    return lambda name: name.split(".")[0] in packages


def of_a_test_module(name: str) -> bool:
    first, *rest = name.split(".")
    return first == "tests" and any(part.startswith("test_") or part == "conftest" for part in rest)


RULES: dict[str, tuple[tuple[str, ...], Callable[[str], bool]]] = {
    "tests import no benchmarks": (("tests",), below("benchmarks")),
    "tests import no test modules and no conftest": (("tests",), of_a_test_module),
    "benchmarks import no tests": (("benchmarks",), below("tests")),
    "devtools import neither tests nor benchmarks": (("devtools",), below("tests", "benchmarks")),
    "the product imports none of them": (PRODUCT, below("tests", "benchmarks", "devtools")),
}


@pytest.mark.parametrize("rule", RULES)
def test_imports_keep_to_the_rules(rule: str) -> None:
    packages, forbidden = RULES[rule]
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
        if path != Path(__file__)
        for name in imports(path)
        if forbidden(name)
    ]
    assert found == []


def test_every_kind_of_import_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text(
        "import benchmarks.load\n"
        "from tests.registry import test_load\n"
        "def late():\n"
        "    from tests.conftest import tiny\n"
        'PROGRAM = """\nimport sys\nfrom tests.faults.test_clocks import Files, TIMING\n"""\n'
    )
    found = set(imports(file))
    assert {name for name in found if of_a_test_module(name)} == {
        "tests.registry.test_load",
        "tests.conftest.tiny",
        "tests.faults.test_clocks.Files",
        "tests.faults.test_clocks.TIMING",
    }
    assert {name for name in found if below("benchmarks", "sys")(name)} == {"benchmarks.load", "sys"}
