"""Regular expressions of an adapter's config, which a stranger wrote: whether they compile, and end in good time.

Python's `re` tries every way to split a name among the parts of an expression. What takes exponential or very many
steps is refused: a repeated group that has repetitions or alternatives in it, and more than a few repetitions in all.
"""

from __future__ import annotations

import re
import warnings

LENGTH_LIMIT = 1000
REPETITIONS_LIMIT = 5
LAYER_GROUP = "phipack_layer"  # with which `targets.py` finds a layer's number
_TOKEN = re.compile(  # an escape, a class, a group's beginning, a count, or a character
    r"\\.|\[\^?\]?(?:[^\]\\]|\\.)*\]|\((?:\?(?:P?<[^>]*>|[a-zA-Z-]+:|[:=!>]|<[=!]))?|\{[0-9,]*\}|.", re.DOTALL
)


def expression_problem(expression: str) -> str | None:
    """Return why an expression can't be used, as a clause; None where it can. Names are at most some 100 letters."""
    if len(expression) > LENGTH_LIMIT:
        return f"has more than {LENGTH_LIMIT} characters"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what may mean something else in a later Python
            compiled = re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is not a regular expression: {error}"
    if LAYER_GROUP in compiled.groupindex:
        return f"names a group {LAYER_GROUP}, which phipack's own expression has"
    if _backtracks(expression):
        return f"repeats a group that has repetitions or alternatives in it, or more than {REPETITIONS_LIMIT} parts"
    return None


def _backtracks(expression: str) -> bool:
    open_groups = [False]  # whether each has a repetition or an alternative in it
    closed: bool | None = None  # of the group that has just ended
    repetitions = 0
    for part in _TOKEN.findall(expression):
        if part in "*+" or part.startswith("{"):
            if closed:
                return True
            repetitions += 1
            open_groups[-1] = True
            closed = None
        elif part == ")" and len(open_groups) > 1:
            closed = open_groups.pop()
            open_groups[-1] |= closed
        else:
            if part.startswith("("):
                open_groups.append(False)
            elif part in "|?":
                open_groups[-1] = True
            closed = None
    return repetitions > REPETITIONS_LIMIT
