"""Tables as plain text, as wide as `COLUMNS` or the terminal allows; of any width where output is a file or a pipe.

Too wide a table has its text columns wrapped; where even that is too wide, each row becomes a block of `column  value`
lines. What somebody typed as a reason takes one line, and does not move a reader's cursor (`targets.printable`).
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence

from targets.printable import one_line

_GAP = 2
_LONGEST_WORD = 24  # a longer word, such as a digest, may be broken


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], width: int | None = None) -> str:
    """Lay out rows under columns. A column whose cells all start like numbers is aligned right.

    `width`: most characters of a line; by default what `output_width` says.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    limit = output_width() if width is None else width
    natural = [max(map(text_width, column)) for column in zip(columns, *cells, strict=True)]
    right = [bool(cells) and all(_numeric(row[i]) for row in cells) for i in range(len(columns))]
    widths = natural if limit is None else _fitted(natural, _least(columns, cells, right), limit)
    if widths is None:
        return "\n\n".join(_record(columns, row, limit or 0) for row in cells)
    lines = [*_lines(columns, widths, right), _line(["-" * one for one in widths], widths, right)]
    return "\n".join([*lines, *(line for row in cells for line in _lines(row, widths, right))])


def output_width() -> int | None:
    """Return the characters of a line on standard output: `COLUMNS`, else the terminal's; None where it is neither."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None if sys.stdout.isatty() else None
    except (OSError, ValueError, AttributeError):  # no terminal, a closed one, or no file at all
        return None


def text_width(text: str) -> int:
    """Return the columns that a text takes on a terminal: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return one_line(str(value)).replace("\t", " ")


def _numeric(cell: str) -> bool:
    return cell == "-" or cell[:1].isdigit() or cell[:2].lstrip("-+<>=")[:1].isdigit()


def _least(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> list[int]:
    """The narrowest that each column may become: numbers are not broken, words of ordinary length neither."""

    def least(texts: Sequence[str], *, whole: bool) -> int:
        words = [max(map(text_width, text.split()), default=0) for text in texts]
        return max(map(text_width, texts)) if whole else min(_LONGEST_WORD, max(words))

    return [
        max(least((column,), whole=False), least(texts, whole=number) if texts else 0)
        for column, number, *texts in zip(columns, right, *cells, strict=True)
    ]


def _fitted(natural: list[int], least: list[int], limit: int) -> list[int] | None:
    """Take from the widest columns until all fit; None where they can't."""
    widths, room = list(natural), limit - _GAP * (len(natural) - 1)
    if sum(least) > room:
        return None if sum(natural) > room else widths
    while sum(widths) > room:
        widest = max((i for i in range(len(widths)) if widths[i] > least[i]), key=lambda i: widths[i])
        widths[widest] -= 1
    return widths


def _lines(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> Iterator[str]:
    wrapped = [list(_wrapped(cell, width)) for cell, width in zip(row, widths, strict=True)]
    for number in range(max(map(len, wrapped))):
        yield _line([lines[number] if number < len(lines) else "" for lines in wrapped], widths, right)


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = []
    for cell, width, at_right in zip(cells, widths, right, strict=True):
        space = " " * (width - text_width(cell))
        padded.append(space + cell if at_right else cell + space)
    return (" " * _GAP).join(padded).rstrip()


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Break at spaces; in a word that is longer than a line, wherever the line ends."""
    if text_width(text) <= width:
        yield text
        return
    line = ""
    for word in text.split():
        if line and text_width(line) + 1 + text_width(word) <= width:
            line += f" {word}"
            continue
        if line:
            yield line
        line = word
        while text_width(line) > width:
            end = next(n for n in range(len(line), 0, -1) if n == 1 or text_width(line[:n]) <= width)
            yield line[:end]
            line = line[end:]
    if line:
        yield line


def _record(columns: Sequence[str], row: Sequence[str], limit: int) -> str:
    head = max(map(text_width, columns)) + _GAP
    lines = []
    for column, cell in zip(columns, row, strict=True):
        first, *more = _wrapped(cell, max(limit - head, _LONGEST_WORD)) if cell else ("",)
        lines += [f"{column}{' ' * (head - text_width(column))}{first}".rstrip(), *(" " * head + one for one in more)]
    return "\n".join(lines)
