"""JUnit XML of a release: a test suite whose test cases are the cells.

A cell that fails at its gates has one `failure` for each gate; any other problem is an `error`. GitLab shows only an
element's text, Jenkins the attribute `message` as well: each has all of it. The elements and attributes
are those of Jenkins' schema (jenkinsci/xunit-plugin, junit-10.xsd).
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from phipack.api.results import CellReport, ReleaseReport
from phipack.problems import Problem
from targets.errors import GateError
from targets.formatting import bound, figure
from targets.printable import printable

# Characters that XML 1.0 has no way to write, escaped or not (section 2.2 of its specification).
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_of_release(report: ReleaseReport) -> str:
    """Return the JUnit XML of a release."""
    return _document(f"{report.model} {report.version}", [_test_case(report, cell) for cell in report.cells])


def junit_of_error(name: str, problem: Problem) -> str:
    """Return the JUnit XML of a command that ended before it had looked at any cell. `name`: of the command."""
    case = ET.Element("testcase", classname="phipack", name=name)
    _add(case, "error", problem.kind, problem.problem, problem.fix)
    return _document(f"phipack {name}", [case])


def _document(name: str, cases: list[ET.Element]) -> str:
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": str(sum(case.find("error") is not None for case in cases)),
        "skipped": "0",
    }
    root = ET.Element("testsuites")
    suite = ET.SubElement(root, "testsuite", {"name": _text(name), **counts})
    suite.extend(cases)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _test_case(report: ReleaseReport, cell: CellReport) -> ET.Element:
    classname = f"{report.model} {report.version}"
    case = ET.Element("testcase", classname=_text(classname), name=_text(cell.cell))
    facts = {"target": cell.target, "recipe": cell.recipe, "digest": cell.digest}
    properties = ET.SubElement(case, "properties")
    for name, value in facts.items():
        if value is not None:
            ET.SubElement(properties, "property", name=name, value=_text(value))
    if cell.problem is None or isinstance(cell.problem, GateError):
        fix = None if cell.problem is None else cell.problem.fix
        for failure in cell.failures:
            _add(case, "failure", "GateError", failure.problem, fix)
    else:
        _add(case, "error", type(cell.problem).__name__, cell.problem.problem, cell.problem.fix)
    if cell.figures or cell.gates:
        ET.SubElement(case, "system-out").text = _text(_details(cell))
    return case


def _add(case: ET.Element, kind: str, type_: str, problem: str, fix: str | None) -> None:
    """Add a failure or an error, with its fix."""
    element = ET.SubElement(case, kind, message=_text(problem), type=type_)
    element.text = _text("\n".join(filter(None, (problem, fix and f"fix: {fix}"))))


def _details(cell: CellReport) -> str:
    """Return the figures and gates of a cell, a line each."""
    figures = [f"{name} {figure(name, one.value, one.unit)} ({one.kind})" for name, one in cell.figures.items()]
    gates = [
        f"{'pass' if gate.passed else 'FAIL'}: {gate.figure} {bound(gate.figure, gate.bound)},"
        f" is {figure(gate.figure, gate.value)} (asked by {gate.asked_by})"
        for gate in cell.gates
    ]
    return "\n".join([*figures, *gates])


def _text(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", printable(text))
