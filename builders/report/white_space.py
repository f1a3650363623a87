"""White space made visible by signs: a line break, a blank or a tab that a reader would not see."""

from __future__ import annotations

from collections.abc import Sequence

_VISIBLE = str.maketrans({"\n": "\N{RETURN SYMBOL}\n", " ": "\N{MIDDLE DOT}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"})


def visible(text: str) -> str:
    """Return a text with a sign for each white space; line breaks stay."""
    return text.translate(_VISIBLE)


def visible_ends(parts: Sequence[str]) -> list[str]:
    """Return the parts of a text with signs for the white space at its start and at its end."""
    text = "".join(parts)
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    found, at = [], 0
    for part in parts:
        cuts = [min(max(one - at, 0), len(part)) for one in (start, max(start, end))]
        found.append(visible(part[: cuts[0]]) + part[cuts[0] : cuts[1]] + visible(part[cuts[1] :]))
        at += len(part)
    return found
