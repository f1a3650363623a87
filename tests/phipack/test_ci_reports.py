"""`phipack release --junit --metrics --github`, as a job of a CI service runs it."""

from __future__ import annotations

from pathlib import Path

from junitparser import JUnitXml

from tests.support.command_line import PROJECT, TOO_SMALL, document_of, run_in

REPORTS = ("--junit", "reports/junit.xml", "--metrics", "reports/metrics.txt", "--github")


def test_a_release_is_reported_in_every_form(project: Path, tmp_path: Path) -> None:
    (project / "phipack.toml").write_text(PROJECT + TOO_SMALL, "utf-8")
    summary = tmp_path / "summary.md"
    summary.write_text("before\n", "utf-8")
    phipack = run_in(project, {"GITHUB_STEP_SUMMARY": str(summary)})

    done = phipack("--json", "release", "--dry-run", *REPORTS, expect=1)

    assert not document_of(done)["ok"]
    (suite,) = JUnitXml.fromfile(str(project / "reports" / "junit.xml"))
    assert (suite.name, suite.tests, suite.errors) == ("tiny 1.0.0", 3, 1)
    assert (project / "reports" / "metrics.txt").read_text("utf-8").endswith("# EOF\n")
    assert summary.read_text("utf-8").startswith("before\n### ❌ tiny 1.0.0: 1 of 3 cells would fail\n")
    assert [line for line in done.stderr.splitlines() if line.startswith("::error title=pocket::")]


def test_a_release_that_never_starts_leaves_no_old_report(project: Path) -> None:
    """A service that collects the files must not read the success of an earlier run."""
    (project / "reports").mkdir()
    for name in ("junit.xml", "metrics.txt"):
        (project / "reports" / name).write_text("of an earlier run", "utf-8")
    (project / "checkpoint" / "config.json").unlink()

    done = run_in(project)("release", *REPORTS, expect=1)

    (suite,) = JUnitXml.fromfile(str(project / "reports" / "junit.xml"))
    assert suite.errors == 1
    assert not (project / "reports" / "metrics.txt").exists()
    assert "::error title=phipack release::" in done.stderr


def test_a_report_that_cannot_be_written_is_refused_before_the_work(project: Path) -> None:
    done = run_in(project)("release", "--junit", "/dev/stdout", expect=1)

    assert "/dev/stdout is no file of its own" in done.stderr
    assert not (project / ".phipack" / "store").exists()
