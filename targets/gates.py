"""Gates: bounds on evidence. Targets and the project file define them.

A gate on a `device_` figure needs a measurement that was taken on a device with the target's chip, of the very bundle.
That somebody claims one counts only where the gate accepts claims.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from targets.toml_file import RefusedValueError

DEVICE_PREFIX = "device_"
CHANGE = (  # the fix where a gate failed
    "in the project file, choose another recipe (more bits for accuracy, fewer for size, memory and speed), "
    'calibration = "full", a shorter context_length for memory, or another bound; phipack release --dry-run shows the '
    "figures"
)
MEASURE = "phipack measure BUNDLE --device DEVICE, then phipack evidence import FILE --bundle BUNDLE"


class Gate(BaseModel):
    """A bound on one figure: exactly one of `at_least` and `at_most`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    at_least: float | None = Field(default=None, description="The figure must not be lower.")
    at_most: float | None = Field(default=None, description="The figure must not be higher.")
    on: Literal["device"] | None = Field(
        default=None, description="device: the figure of this name that was measured on a device, such as a phone."
    )
    accept_claims: bool = Field(
        default=False,
        description="Accept a figure of a device that somebody claims to be of this bundle (phipack evidence import).",
    )

    @model_validator(mode="after")
    def _one_bound(self) -> Gate:
        if (self.at_least is None) == (self.at_most is None):
            raise RefusedValueError(
                "a gate needs exactly one of at_least and at_most",
                fix="set at_least for a lower bound, or at_most for an upper bound",
            )
        return self

    def allows(self, value: float) -> bool:
        """Return True if the value is a number within the bound."""
        if math.isnan(value):
            return False
        if self.at_least is not None:
            return value >= self.at_least
        assert self.at_most is not None
        return value <= self.at_most

    def __str__(self) -> str:
        return f">= {_exact(self.at_least)}" if self.at_least is not None else f"<= {_exact(self.at_most)}"


class GateResult(BaseModel):
    """The result of one gate. `value` is None if the evidence does not have the figure; the gate then fails.

    `note`: why it does not have it, and what to do; left out of the JSON where there is nothing to say.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    figure: str
    bound: str
    value: float | None
    passed: bool
    asked_by: str
    note: str = ""

    @model_serializer(mode="wrap")
    def _without_empty_note(self, serialize: Callable[[GateResult], dict[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if name != "note" or value}

    @model_validator(mode="after")
    def _passed_with_a_figure(self) -> GateResult:
        if self.passed and (self.value is None or math.isnan(self.value)):
            raise ValueError(f"the gate on {self.figure} passed without a figure")
        return self

    def allows(self, value: float) -> bool:
        """Return True if another value than the gate's own is a number within its bound."""
        sign, _, number = self.bound.partition(" ")
        gate = Gate(at_least=float(number)) if sign == ">=" else Gate(at_most=float(number))
        return gate.allows(value)

    def __str__(self) -> str:
        found = "not known" if self.value is None else self._shown(self.value)
        note = f"; {self.note}" if self.note else ""
        return f"{self.figure} is {found}, must be {self.bound} (asked by {self.asked_by}){note}"

    def _shown(self, value: float) -> str:
        """Return a value in four digits; with all where rounding would move it to the other side of the bound."""
        short = format(value, ".4g")
        return short if self.allows(float(short)) == self.passed else _in_full(value)


def _exact(bound: float | None) -> str:
    """Return a bound in its short form where that is the same number, else with all its digits."""
    assert bound is not None
    short = f"{bound:g}"
    return short if float(short) == bound else _in_full(bound)


def _in_full(number: float) -> str:
    return repr(float(number)).removesuffix(".0")


def judge(
    figures: Mapping[str, float], gates: Mapping[str, Gate], *, asked_by: str, claimed: Collection[str] = ()
) -> list[GateResult]:
    """Check figures against gates. A gate on a figure that is missing fails.

    `claimed`: figures that are only claimed to be of the bundle. They count where the gate accepts claims.
    """
    results = []
    for name, gate in gates.items():
        refused = name in claimed and not gate.accept_claims
        value = None if refused else figures.get(name)
        note = ""
        if refused:
            note = f"there is only a claim, of {figures[name]:.4g}; measure it ({MEASURE}), or set accept_claims = true"
        elif value is None and name.startswith(DEVICE_PREFIX):
            note = f"not measured on a device with this chip: {MEASURE}"
        passed = value is not None and gate.allows(value)
        results.append(
            GateResult(figure=name, bound=str(gate), value=value, passed=passed, asked_by=asked_by, note=note)
        )
    return results
