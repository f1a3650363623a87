"""A release on GitHub Actions: a step summary in Markdown, and annotations.

The runner appends the file that GITHUB_STEP_SUMMARY names to the job's page (at most 1 MiB a step), and reads workflow
commands from standard output and standard error alike: `::error title=TITLE::MESSAGE` (actions/runner, ScriptHandler
and ActionCommand). It shows at most ten errors a step, so that the cells come before what is said of all of them.
"""

from __future__ import annotations

from phipack.api.results import CellReport, ReleaseReport
from phipack.problems import Problem
from targets.formatting import count, figure, recipe_shown, size
from targets.printable import one_line, printable

SUMMARY_BYTES_LIMIT = 1 << 20
_SHOWN = (
    ("kl_mean", "KL"),
    ("same_top_share", "same top"),
    ("decode_tokens_per_second", "token/s here"),
    ("predicted_decode_tokens_per_second", "token/s there (predicted)"),
)
_SPECIAL = str.maketrans({letter: f"\\{letter}" for letter in "\\`*_{}[]<>#|~"})


def step_summary(report: ReleaseReport) -> str:
    """Return Markdown: the verdict, a row for each cell, and every reason why a cell does not pass."""
    failed = [cell for cell in report.cells if cell.failures]
    title = f"{report.model} {report.version}"
    if failed:
        how = "would fail" if report.dry_run else "failed"
        verdict = f"\N{CROSS MARK} {_plain(title)}: {len(failed)} of {count(len(report.cells), 'cell')} {how}"
    else:
        how = "nothing stands against" if report.dry_run else "passed:"
        verdict = f"\N{WHITE HEAVY CHECK MARK} {_plain(title)}: {how} {count(len(report.cells), 'cell')}"
    columns = ["cell", "recipe", "size", *(title for _, title in _SHOWN), "gates"]
    lines = [f"### {verdict}", "", _row(columns), _row(["---"] * len(columns)), *map(_cell_row, report.cells)]
    if failed:
        lines += ["", *(f"- **{_plain(one.cell)}**: {_plain(one.problem)}" for one in report.failures)]
    return _within_limit("\n".join(lines) + "\n")


def error_summary(name: str, problem: Problem) -> str:
    """Return Markdown for a command that ended before it had looked at any cell."""
    lines = [f"### \N{CROSS MARK} phipack {_plain(name)}", "", _plain(problem.problem)]
    if problem.fix is not None:
        lines += ["", f"Fix: {_plain(problem.fix)}"]
    return _within_limit("\n".join(lines) + "\n")


def code_summary(text: str) -> str:
    """Return Markdown that shows text as it is, in lines of one width."""
    fence = "```"
    while fence in text:
        fence += "`"
    return _within_limit(f"{fence}\n{printable(text)}\n{fence}\n")


def annotations_of_release(report: ReleaseReport) -> list[str]:
    """Return a workflow command for each cell that does not pass, with all its reasons."""
    return [_error(cell.cell, _reasons(cell)) for cell in report.cells if cell.failures]


def annotation_of_error(name: str, problem: Problem) -> str:
    """Return the workflow command for an error of a whole command."""
    return _error(f"phipack {name}", problem.text)


def _reasons(cell: CellReport) -> str:
    reasons = [failure.problem for failure in cell.failures]
    return "\n".join(reasons if cell.problem is None else [*reasons, f"fix: {cell.problem.fix}"])


def _error(title: str, message: str) -> str:
    """Return an annotation. The escapes are those of actions/toolkit (packages/core/src/command.ts)."""
    title = _data(title).replace(":", "%3A").replace(",", "%2C")
    return f"::error title={title}::{_data(message)}"


def _data(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _cell_row(cell: CellReport) -> str:
    figures = [figure(name, cell.figures[name].value) if name in cell.figures else "-" for name, _ in _SHOWN]
    passed = f"{sum(gate.passed for gate in cell.gates)}/{len(cell.gates)}" if cell.gates else "-"
    mark = "\N{CROSS MARK}" if cell.failures else "\N{WHITE HEAVY CHECK MARK}"
    bytes_ = "-" if cell.size_bytes is None else size(cell.size_bytes)
    recipe = recipe_shown(cell.recipe, cell.calibration, cell.budget, cell.kv_cache)
    return _row([cell.cell, recipe, bytes_, *figures, f"{mark} {passed}"])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell if set(cell) == {"-"} else _plain(cell) for cell in cells) + " |"


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is: on one line, with nothing of it a link, a tag or a column."""
    return one_line(text).translate(_SPECIAL)


def _within_limit(text: str) -> str:
    """Cut a summary at the runner's limit, at a line's end: it refuses a longer one whole."""
    raw = text.encode()
    if len(raw) <= SUMMARY_BYTES_LIMIT:
        return text
    note = "\n\n… cut: the whole of it is in the log\n"
    kept = raw[: SUMMARY_BYTES_LIMIT - len(note.encode())].decode(errors="ignore")
    return kept[: kept.rindex("\n")] + note
