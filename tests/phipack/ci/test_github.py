"""Step summaries, read by a Markdown library, and annotations as the runner parses them."""

from __future__ import annotations

import re
from dataclasses import replace

from markdown_it import MarkdownIt

from phipack.ci.github import (
    SUMMARY_BYTES_LIMIT,
    annotation_of_error,
    annotations_of_release,
    error_summary,
    step_summary,
)
from phipack.problems import Problem
from tests.phipack.ci.reports import HOSTILE, at_gates, broken, passing, release


def html(markdown: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(markdown)


def rows_of(markdown: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html(markdown), re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]


def runners_reading(line: str) -> tuple[str, dict[str, str], str]:
    """Parse a workflow command: name, properties, message. Escapes as in actions/runner's ActionCommand."""
    head, _, message = line.removeprefix("::").partition("::")
    name, _, properties = head.partition(" ")
    pairs = dict(one.split("=", 1) for one in properties.split(",") if one)

    def plain(text: str) -> str:
        for code, letter in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
            text = text.replace(code, letter)
        return text

    return name, {key: plain(value) for key, value in pairs.items()}, plain(message)


def test_a_summary_has_the_verdict_a_row_a_cell_and_every_reason() -> None:
    summary = step_summary(release(passing(), at_gates(), broken()))

    assert "❌ phi 1.0.0: 2 of 3 cells failed" in html(summary)
    header, *rows = rows_of(summary)
    assert header[:3] == ["cell", "recipe", "size"]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        ("iphone-15", "97.7 MB", "0.0123 nat"),
        ("galaxy-s24", "-", "0.3 nat"),
        ("pixel-9", "-", "-"),
    ]
    assert [row[-1] for row in rows] == ["✅ 1/1", "❌ 0/2", "❌ -"]
    assert html(summary).count("<li>") == 3


def test_a_summary_of_what_passes_says_so() -> None:
    assert step_summary(release(passing())).startswith("### ✅ phi 1.0.0: passed: 1 cell\n")
    assert "nothing stands against 1 cell" in step_summary(release(passing(), dry_run=True))


def test_strangers_text_is_no_markup_and_no_command() -> None:
    cell = replace(broken(HOSTILE), recipe=HOSTILE)
    summary = step_summary(release(cell))

    shown = html(summary)
    assert "<a " not in shown
    assert "<b>" not in shown
    assert "<code>" not in shown
    assert len(rows_of(summary)[1]) == len(rows_of(summary)[0])
    assert not [line for line in summary.splitlines() if line.startswith("::")]
    (line,) = annotations_of_release(release(cell))
    assert "\n" not in line


def test_an_annotation_a_cell_with_all_its_reasons() -> None:
    lines = annotations_of_release(release(passing(), at_gates(), broken("50%, at 12:00")))

    name, properties, message = runners_reading(lines[0])
    assert (name, properties) == ("error", {"title": "galaxy-s24"})
    assert [line.split(" ")[0] for line in message.splitlines()] == ["kl_mean", "artifact_bytes", "fix:"]
    assert runners_reading(lines[1])[2] == "50%, at 12:00\nfix: free 50%, at 12:00"
    assert len(lines) == 2


def test_an_error_of_the_whole_command_is_shown() -> None:
    problem = Problem("CheckpointError", "no config.json", "name a checkpoint's folder", 1)

    assert "Fix: name a checkpoint's folder" in error_summary("release", problem)
    _, properties, message = runners_reading(annotation_of_error("release", problem))
    assert (properties["title"], message) == (
        "phipack release",
        "no config.json\n  fix: name a checkpoint's folder",
    )


def test_a_summary_stays_within_what_the_runner_takes() -> None:
    cells = [replace(broken("é" * 400), cell=f"cell-{number}") for number in range(2000)]
    summary = step_summary(release(*cells))

    assert len(summary.encode()) <= SUMMARY_BYTES_LIMIT
    assert summary.endswith("cut: the whole of it is in the log\n")
