"""Tables that a phone can show: each cell gets the name of its column.

On a narrow screen the style sheet makes a block of each row, whose cells show these names (`report.css`). Blocks are no
table for a screen reader any more, so that every part has the role that it would have had.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

_HEADING = re.compile(r"<th\b[^>]*>(.*?)</th>", re.DOTALL)
_TAG = re.compile("<(thead|tbody|tr|th|td)\\b(?=[^>]*>(\N{EN DASH}</td>)?)")


def labelled(inside: Markup) -> Markup:
    """Return what is inside a table of ours, a head and a body, with roles and the columns' names.

    Cells with nothing but a dash are marked as empty: where each cell has a line of its own, they need none.
    Everything from outside has been escaped, so that each `<td` is a cell.
    """
    from markupsafe import Markup

    head, end, body = str(inside).partition("</thead>")
    names = [Markup(one).striptags() for one in _HEADING.findall(head)]  # noqa: S704 - escaped already
    return Markup(  # noqa: S704 - escaped already
        _TAG.sub(_of_head, head) + end + _TAG.sub(_of_body(names), body)
    )


def _of_head(tag: re.Match[str]) -> str:
    role = {"thead": "rowgroup", "tr": "row"}.get(tag[1], "columnheader")
    return f'{tag[0]} role="{role}"'


def _of_body(names: list[str]) -> Callable[[re.Match[str]], str]:
    from markupsafe import escape

    column = 0

    def written(tag: re.Match[str]) -> str:
        nonlocal column
        if tag[1] in ("tbody", "tr"):
            column = 0
            return f'{tag[0]} role="{"row" if tag[1] == "tr" else "rowgroup"}"'
        name, column = names[column], column + 1
        role = "rowheader" if tag[1] == "th" else "cell"
        empty = " data-empty" if tag[2] else ""
        return f'{tag[0]} role="{role}" data-label="{escape(name)}"{empty}'

    return written
