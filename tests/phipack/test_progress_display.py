"""Progress as people see it: bars on a terminal, a line a step elsewhere."""

from __future__ import annotations

import errno
import io
import os
import pty
import re
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TextIO

import pytest

from phipack import progress_display
from phipack.output import Output
from targets.progress import Notice, Step

CELLS = ("iphone-15", "galaxy-s24-with-a-long-name")


class Terminal:
    """A pseudo-terminal on which standard error is, and what its screen shows."""

    def __init__(self) -> None:
        self.reader, writer = pty.openpty()
        self.stream: TextIO = os.fdopen(writer, "w", encoding="utf-8")
        self.written = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        pieces = b""
        while True:
            try:
                piece = os.read(self.reader, 4096)
            except OSError:  # the other end is closed
                break
            pieces += piece
            self.written = pieces.decode("utf-8", "replace")

    def close(self) -> None:
        """End the stream and wait for what was written."""
        self.stream.close()
        self._thread.join(60)
        os.close(self.reader)

    def frames(self) -> list[str]:
        """Every line that was ever drawn, without its escape sequences."""
        lines = re.split(r"[\r\n]+|\x1b\[\d*A", self.written)
        return [plain for line in lines if (plain := re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)).strip()]

    def screen(self) -> list[str]:
        """What is left on the screen: the sequences that rich writes are carried out."""
        rows, row = [""], 0
        for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.written):
            if token == "\n":
                row += 1
                rows += [""] * (row + 1 - len(rows))
            elif match := re.fullmatch(r"\x1b\[(\d*)A", token):
                row = max(0, row - int(match[1] or 1))
            elif re.fullmatch(r"\x1b\[2?K", token):
                rows[row] = ""
            elif not token.startswith(("\x1b", "\r")):
                rows[row] += token
        return [line for line in rows if line.strip()]


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Terminal]]:
    """Open a terminal of 60 columns when the test asks for it: pytest sets standard error when a test starts."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(progress_display, "_REDRAW_SECONDS", 0.0)
    opened: list[Terminal] = []

    def open_one() -> Terminal:
        opened.append(Terminal())
        monkeypatch.setattr(sys, "stderr", opened[-1].stream)
        return opened[-1]

    yield open_one
    for terminal in opened:
        if not terminal.stream.closed:
            terminal.close()


def build_two_cells(output: Output) -> None:
    """Two cells side by side, quantized and then uploaded, with a note in between."""
    for done in range(0, 225, 28):
        for cell in CELLS:
            output.on_progress(Step("quantize", done, 224, "tensors", cell))
    output.on_progress(Notice("waiting for alice, who holds the lock"))
    for done in range(0, 2_400_000_001, 300_000_000):
        for cell in CELLS:
            output.on_progress(Step("upload", done, 2_400_000_000, "bytes", cell))


def test_bars_fit_the_columns_and_are_cleared(
    open_terminal: Callable[[], Terminal], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = open_terminal()
    output = Output()
    build_two_cells(output)
    output.result({}, "done")
    terminal.close()
    frames = terminal.frames()
    assert max(map(len, frames)) <= 60
    assert any("iphone-15: quantize" in line and "112/224 tensors" in line for line in frames)
    assert any("iphone-15: upload" in line and "1.2/2.4 GB" in line for line in frames)
    assert any(re.search(r"\d B/s|\d [kMGT]B/s", line) for line in frames)
    assert any(re.search(r"\d:\d\d$", line.rstrip()) for line in frames), "the time left"
    assert any(line.startswith("galaxy-s24-wi…: quantize ") for line in frames)
    assert terminal.screen() == ["waiting for alice, who holds the lock"]
    assert capsys.readouterr().out == "done\n"


def test_two_cells_are_on_the_screen_at_once(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    output = Output()
    output.on_progress(Step("quantize", 10, 224, "tensors", "iphone-15"))
    output.on_progress(Step("quantize", 20, 224, "tensors", "pixel-9"))
    terminal.close()
    assert [line.split()[0] for line in terminal.screen()] == ["iphone-15:", "pixel-9:"]


def test_each_cell_is_redrawn_whoever_reports_first(
    open_terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = open_terminal()
    now = 0.0
    monkeypatch.setattr(progress_display, "_REDRAW_SECONDS", 0.1)
    monkeypatch.setattr(progress_display, "time", SimpleNamespace(monotonic=lambda: now))
    output = Output()
    for done in range(1, 10):
        for cell in ("iphone-15", "pixel-9"):
            output.on_progress(Step("quantize", done, 224, "tensors", cell))
        now += 0.2
    terminal.close()
    assert ["9/224 tensors" in line for line in terminal.screen()] == [True, True]


def test_what_others_wrote_is_drawn_as_it_is(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    output = Output()
    output.on_progress(Step("copy", 1, 9, "bytes", "[red]a\x1b]0;t\x07\r\N{RIGHT-TO-LEFT OVERRIDE}"))
    output.note("[bold]\x1b]0;t\x07")
    terminal.close()
    assert "\x1b]0" not in terminal.written
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in terminal.written
    assert "[bold]\\x1b]0;t\\x07" in terminal.written
    assert any(line.startswith("[red]a\\x1b]0;t") for line in terminal.screen())


def test_a_total_that_is_not_known_is_not_shown(open_terminal: Callable[[], Terminal]) -> None:
    terminal = open_terminal()
    output = Output()
    output.on_progress(Step("download", 1000, 0, "bytes"))
    output.on_progress(Step("download", 2_000_000, 0, "bytes"))
    terminal.close()
    assert "2 MB" in terminal.frames()[-1]
    assert "/" not in terminal.frames()[-1].replace("/s", "")


def test_no_color_holds(open_terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal()
    build_two_cells(Output())
    monkeypatch.setenv("NO_COLOR", "1")
    plain = open_terminal()
    output = Output()
    build_two_cells(output)
    output.result({}, "")
    plain.close()
    terminal.close()
    colours = r"\x1b\[[0-9;]*3[0-9][0-9;]*m"
    assert re.search(colours, terminal.written)
    assert not re.search(colours, plain.written)


@pytest.mark.parametrize("mode", ["quiet", "json"])
def test_nothing_is_drawn_in_the_other_modes(open_terminal: Callable[[], Terminal], mode: str) -> None:
    terminal = open_terminal()
    output = Output(mode="quiet" if mode == "quiet" else "json")
    build_two_cells(output)
    terminal.close()
    assert terminal.written == ""


def test_a_dumb_terminal_gets_lines(open_terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal()
    monkeypatch.setenv("TERM", "dumb")
    build_two_cells(Output())
    terminal.close()
    assert "\x1b" not in terminal.written


LINES = [
    "  iphone-15: quantize",
    "  galaxy-s24-with-a-long-name: quantize",
    "waiting for alice, who holds the lock",
    "  iphone-15: upload (2.4 GB)",
    "  galaxy-s24-with-a-long-name: upload (2.4 GB)",
]


def test_without_a_terminal_each_step_of_each_cell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    build_two_cells(Output())
    assert capsys.readouterr().err.splitlines() == LINES


def test_verbose_adds_how_long_each_step_took(capsys: pytest.CaptureFixture[str]) -> None:
    build_two_cells(Output(verbose=True))
    said = capsys.readouterr().err.splitlines()
    ends = [line.rpartition(" in ")[0] for line in said if line not in LINES]
    assert ends == [
        *(f"  {cell}: quantize: 224 tensors" for cell in CELLS),
        *(f"  {cell}: upload: 2.4 GB" for cell in CELLS),
    ]


def test_progress_comes_from_many_threads(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()

    def report(cell: str) -> None:
        for done in range(500):
            output.on_progress(Step("quantize", done, 500, "tensors", cell))

    threads = [threading.Thread(target=report, args=(f"cell-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(f"  cell-{number}: quantize" for number in range(8))


class Gone(io.StringIO):
    """A terminal whose window was closed."""

    def isatty(self) -> bool:
        return True

    def write(self, _: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_a_terminal_that_is_gone_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", Gone())
    output = Output()
    for done in range(1, 11):
        output.on_progress(Step("quantize", done, 10))
        output.note("half of it")
    output.end(None)
