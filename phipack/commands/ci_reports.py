"""`--junit`, `--metrics` and `--github`: a release as CI services show it, whether it passes, fails or never starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from phipack.options import FILE, State

if TYPE_CHECKING:
    from phipack.api.results import ReleaseReport

Command = Callable[..., Any]


def ci_report_options(command: Command) -> Command:
    """Add the options; the command receives `junit`, `metrics` and `github`."""
    for option in (
        click.option(
            "--github",
            is_flag=True,
            help="Write a step summary and annotations, as GitHub Actions shows them.",
        ),
        click.option(
            "--metrics", type=FILE, metavar="FILE", help="Write every figure here, in OpenMetrics' text format."
        ),
        click.option(
            "--junit",
            type=FILE,
            metavar="FILE",
            help="Write JUnit XML here: a cell is a test case, a failed gate a failure.",
        ),
    ):
        command = option(command)
    return command


@dataclass
class CiReports:
    """Where a command's report goes for CI. `name`: of the command."""

    state: State
    name: str
    junit: Path | None
    metrics: Path | None
    github: bool
    _written: bool = False

    @contextmanager
    def open(self) -> Iterator[CiReports]:
        """Look at the files first, and remove what an earlier run left there. An error before `write` is reported too.

        Raises:
            BuildError: a file can't be written.
        """
        from registry.files.output_file import check_output_file
        from registry.files.staging import disk_errors

        for path in filter(None, (self.junit, self.metrics)):
            check_output_file(path)
            with disk_errors(path):
                path.unlink(missing_ok=True)
        try:
            yield self
        except BaseException as error:
            if not self._written:
                self._write_error(error)
            raise

    def write(self, report: ReleaseReport) -> None:
        """Write a release in every form that was asked for."""
        from phipack.ci.github import annotations_of_release, step_summary
        from phipack.ci.junit import junit_of_release
        from phipack.ci.open_metrics import metrics_of_release

        self._written = True
        if self.junit is not None:
            _write(self.junit, junit_of_release(report))
        if self.metrics is not None:
            _write(self.metrics, metrics_of_release(report))
        if self.github:
            self._show_on_github(step_summary(report), annotations_of_release(report))

    def _write_error(self, error: BaseException) -> None:
        """Write why there is no report. Metrics of nothing are none: their file stays away."""
        from phipack.ci.github import annotation_of_error, error_summary
        from phipack.ci.junit import junit_of_error
        from phipack.problems import explain

        problem = explain(error, arguments=self.state.arguments, registry=self.state.registry)
        if problem is None:
            return
        if self.junit is not None:
            _write(self.junit, junit_of_error(self.name, problem))
        if self.github:
            self._show_on_github(error_summary(self.name, problem), [annotation_of_error(self.name, problem)])

    def _show_on_github(self, summary: str, annotations: list[str]) -> None:
        """Append to the step's summary, and print the annotations on standard error."""
        append_for_runner("GITHUB_STEP_SUMMARY", summary)
        for annotation in annotations:
            self.state.output.annotate(annotation)


def append_for_runner(variable: str, text: str) -> None:
    """Append to the file that GitHub's runner names in a variable of the environment; nothing where it names none.

    Raises:
        BuildError: the file can't be written.
    """
    from registry.files.output_file import open_to_append
    from registry.files.staging import disk_errors

    if path := os.environ.get(variable):
        with disk_errors(Path(path)), os.fdopen(open_to_append(Path(path)), "a", encoding="utf-8") as file:
            file.write(text)


def _write(path: Path, text: str) -> None:
    from registry.files.output_file import write_output_file

    write_output_file(path, text.encode())
