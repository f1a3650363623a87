"""Gates: bounds on evidence. Targets and the project file define them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, model_validator

from targets.toml_file import RefusedValueError


class Gate(BaseModel):
    """A bound on one figure: exactly one of `at_least` and `at_most`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    at_least: float | None = Field(default=None, description="The figure must not be lower.")
    at_most: float | None = Field(default=None, description="The figure must not be higher.")

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
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"


class GateResult(BaseModel):
    """The result of one gate. `value` is None if the evidence does not have the figure; the gate then fails."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    figure: str
    bound: str
    value: float | None
    passed: bool
    asked_by: str

    def __str__(self) -> str:
        found = "not known" if self.value is None else format(self.value, ".4g")
        return f"{self.figure} is {found}, must be {self.bound} (asked by {self.asked_by})"


def judge(figures: Mapping[str, float], gates: Mapping[str, Gate], *, asked_by: str) -> list[GateResult]:
    """Check figures against gates. A gate on a figure that is missing fails."""
    results = []
    for name, gate in gates.items():
        value = figures.get(name)
        passed = value is not None and gate.allows(value)
        results.append(GateResult(figure=name, bound=str(gate), value=value, passed=passed, asked_by=asked_by))
    return results
