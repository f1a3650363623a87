"""The table of gates in a TOML file: a bound for each figure. Every figure must be one that evidence has."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from targets.errors import did_you_mean
from targets.evidence import FIGURES
from targets.gates import Gate
from targets.toml_file import RefusedValueError


def _known_figures(gates: dict[str, Gate]) -> dict[str, Gate]:
    for figure in gates:
        if figure not in FIGURES:
            raise RefusedValueError(f"unknown figure {figure!r}", at=(figure,), fix=did_you_mean(figure, FIGURES))
    return gates


GateTable = Annotated[dict[str, Gate], AfterValidator(_known_figures)]
