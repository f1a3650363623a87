"""JUnit XML, read by a library that is not ours."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite

from phipack.ci.junit import junit_of_error, junit_of_release
from phipack.problems import Problem
from tests.phipack.ci.reports import HOSTILE, at_gates, broken, passing, release


def suite_of(text: str) -> TestSuite:
    (suite,) = JUnitXml.fromstring(text.encode())
    return suite


def cases_of(text: str) -> dict[str, TestCase]:
    return {case.name: case for case in suite_of(text)}


def properties_of(text: str, name: str) -> dict[str, str]:
    """Return the properties of a case, which junitparser knows only of a suite."""
    found = ET.fromstring(text).iterfind(f".//testcase[@name='{name}']/properties/property")
    return {one.attrib["name"]: one.attrib["value"] for one in found}


def test_a_cell_is_a_test_case_and_a_failed_gate_a_failure() -> None:
    text = junit_of_release(release(passing(), at_gates(), broken()))
    suite, cases = suite_of(text), cases_of(text)

    assert (suite.name, suite.tests, suite.failures, suite.errors, suite.skipped) == ("phi 1.0.0", 3, 1, 1, 0)
    assert cases["iphone-15"].is_passed
    assert properties_of(text, "iphone-15")["digest"] == "sha256:" + "ab" * 32
    gates = cases["galaxy-s24"].result
    assert [type(one) for one in gates] == [Failure, Failure]
    assert "kl_mean is 0.3, must be <= 0.05" in gates[0].message
    assert "artifact_bytes" in gates[1].message
    assert all(one.text.endswith("fix: choose a recipe with more bits") for one in gates)
    (error,) = cases["pixel-9"].result
    assert (type(error), error.type, error.message) == (Error, "BuildError", "the disk is full")
    assert error.text == "the disk is full\nfix: free the disk is full"


def test_figures_and_gates_are_readable_next_to_a_case() -> None:
    shown = cases_of(junit_of_release(release(at_gates())))["galaxy-s24"].system_out

    assert "kl_max inf (measured)" in shown
    assert "FAIL: artifact_bytes <= 90 MB, is 97.7 MB (asked by project)" in shown


def test_what_strangers_wrote_stays_text() -> None:
    (error,) = cases_of(junit_of_release(release(broken(HOSTILE))))["pixel-9"].result

    assert error.message.startswith("a<b>&\"'`|x|`")
    assert "\x1b" not in error.text


def test_a_command_that_never_looked_at_a_cell_is_an_error_too() -> None:
    text = junit_of_error("release", Problem("CheckpointError", "no config.json", None, 1))

    (error,) = cases_of(text)["release"].result
    assert (error.type, error.text, suite_of(text).errors) == ("CheckpointError", "no config.json", 1)
