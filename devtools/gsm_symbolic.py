"""Word problems with worked answers, from the templates of GSM-Symbolic that PyPI's reasoning-gym carries (Apache-2.0).

Each template is a problem of GSM8K whose names and numbers are drawn (Mirzadeh et al., arXiv 2410.05229). The package
needs more than a dozen others to be imported; its templates are three plain modules, which are taken out of the wheel
and run in a process of their own, without what is installed here.

Questions go through the templates in turn, question n with the seed n. Left out: templates that the package itself
marks as wrong, those of the worked examples, answers that are no whole number (GSM8K has none), and problems in which
a number was not rounded, such as 18.999999999999996.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from devtools.packages import Package
from targets.errors import BuildError

REASONING_GYM = Package(
    "reasoning-gym==0.1.25",
    "reasoning_gym-0.1.25-py3-none-any.whl",
    "7f17a3eddb13c015d7d4a755ed576a061df889faf9468bcc2cca334ebe9e0435",
)
QUESTIONS = 200
_EXAMPLES = (43, 26, 10, 62, 72)  # templates with short answers: an example is read before each question
_PLACE = "reasoning_gym/arithmetic/gsm_symbolic"
_MODULES = (f"{_PLACE}/generators_00_49.py", f"{_PLACE}/generators_50_99.py", "reasoning_gym/utils.py")
_PACKAGES = ("reasoning_gym", "reasoning_gym/arithmetic", _PLACE)  # imported without what theirs import
_UNROUNDED = re.compile(r"\.\d{3}")
_PROGRAM = """\
import json, sys
from random import Random
sys.path.insert(0, sys.argv[1])
from reasoning_gym.arithmetic.gsm_symbolic import generators_00_49, generators_50_99
templates = {**vars(generators_00_49), **vars(generators_50_99)}
for template, seed in json.loads(sys.argv[2]):
    drawn = templates[f"generate_{template}"](Random(seed), 1.0)
    print(json.dumps([drawn["question"], drawn["answer"], drawn["metadata"]["answer_cot"]], allow_nan=False))
"""


def word_problems(archive: zipfile.ZipFile) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the worked examples, and `QUESTIONS` questions, as lines of a task.

    Raises:
        BuildError: the templates can't be run.
    """
    every = _right_templates(archive)
    asked = [template for template in every if template not in _EXAMPLES]
    turns = [(asked[number % len(asked)], number) for number in range(3 * QUESTIONS)]
    examples, rows = _drawn(archive, [(template, 0) for template in _EXAMPLES]), _drawn(archive, turns)
    unique = {row["prompt"]: row for row in _lines(rows)}
    return [*_lines(examples)], [*unique.values()][:QUESTIONS]


def _right_templates(archive: zipfile.ZipFile) -> list[int]:
    """Return the numbers of the templates that the package takes for right."""
    tree = ast.parse(archive.read(f"{_PLACE}/gsm_symbolic.py"))
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "tasks_ok":
            return list(ast.literal_eval(statement.value))
    raise BuildError(f"{_PLACE}/gsm_symbolic.py has no tasks_ok", fix=f"use {REASONING_GYM.requirement}")


def _lines(rows: Sequence[tuple[str, str, str]]) -> Iterator[dict[str, Any]]:
    for question, answer, worked in rows:
        steps, _, _ = worked.rpartition("####")
        if answer.lstrip("-").isdecimal() and not _UNROUNDED.search(question):
            yield {"prompt": f"Question: {question.strip()}\nAnswer:", "answer": f"{steps.strip()}\n#### {answer}"}


def _drawn(archive: zipfile.ZipFile, turns: Sequence[tuple[int, int]]) -> list[tuple[str, str, str]]:
    """Return question, answer and worked answer of each template and seed."""
    with tempfile.TemporaryDirectory() as folder:
        for package in _PACKAGES:
            (Path(folder) / package).mkdir()
            (Path(folder) / package / "__init__.py").touch()
        for module in _MODULES:
            (Path(folder) / module).write_bytes(archive.read(module))
        command = [sys.executable, "-I", "-c", _PROGRAM, folder, json.dumps(turns, allow_nan=False)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        said = (found.stderr.strip().splitlines() or ["nothing"])[-1]
        raise BuildError(f"the templates of GSM-Symbolic failed: {said}", fix=f"use {REASONING_GYM.requirement}")
    return [tuple(json.loads(line)) for line in found.stdout.splitlines()]
