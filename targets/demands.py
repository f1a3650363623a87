"""The table of gates in a TOML file: a bound for each figure. Every figure must be one that evidence has."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from targets.errors import did_you_mean
from targets.evidence import FIGURES, wrong_way
from targets.gates import DEVICE_PREFIX, Gate
from targets.toml_file import RefusedValueError


def _known_figures(gates: dict[str, Gate]) -> dict[str, Gate]:
    """Return the gates by the names of figures: `decode_tokens_per_second` on a device is a figure of its own."""
    found: dict[str, Gate] = {}
    for name, gate in gates.items():
        figure = _figure_of(name, gate)
        if figure in found:
            raise RefusedValueError(f"a second gate on {figure}", at=(name,), fix="keep one of the two")
        found[figure] = gate
    return found


def _figure_of(name: str, gate: Gate) -> str:
    if name not in FIGURES:
        raise RefusedValueError(f"unknown figure {name!r}", at=(name,), fix=did_you_mean(name, FIGURES))
    if (wrong := wrong_way(name, gate)) is not None:
        problem, fix = wrong
        raise RefusedValueError(problem, at=(name,), fix=fix)
    figure = name if gate.on is None or name.startswith(DEVICE_PREFIX) else DEVICE_PREFIX + name
    if figure not in FIGURES:
        known = ", ".join(one.removeprefix(DEVICE_PREFIX) for one in FIGURES if one.startswith(DEVICE_PREFIX))
        raise RefusedValueError(
            f"{name} is not measured on devices", at=(name, "on"), fix=f"remove on, or bound one of: {known}"
        )
    if gate.accept_claims and not figure.startswith(DEVICE_PREFIX):
        raise RefusedValueError(
            f"nobody claims {name}: it is measured here",
            at=(name, "accept_claims"),
            fix='remove it, or add on = "device"',
        )
    return figure


GateTable = Annotated[dict[str, Gate], AfterValidator(_known_figures)]
