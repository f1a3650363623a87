"""What all JSON forms share. Keys are in snake case with their units: `size_bytes`, `expires` (ISO 8601, UTC)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from targets.errors import Failure, PhipackError


class Form(BaseModel):
    """A JSON object. Numbers that JSON has no sign for are the texts `NaN`, `Infinity` and `-Infinity`."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    def data(self) -> Any:
        """Return it as dictionaries and lists, as `json.dumps` takes them."""
        return json.loads(self.model_dump_json(by_alias=True))


class FailureForm(Form):
    """One reason why a cell does not pass."""

    cell: str = Field(description="the cell's name; empty for what stands for all")
    problem: str


class ProblemForm(Form):
    """An error: what failed, what to do next, and the exit code that it stands for."""

    kind: str = Field(description="a class of phipack.errors")
    problem: str
    fix: str | None
    exit_code: int
    failures: list[FailureForm] = Field(description="of a failed gate: every reason, by cell")


def problem_form(error: PhipackError) -> ProblemForm:
    """Describe an error."""
    return ProblemForm(
        kind=type(error).__name__,
        problem=error.problem,
        fix=error.fix,
        exit_code=error.exit_code,
        failures=failure_forms(getattr(error, "failures", ())),
    )


def failure_forms(failures: Iterable[Failure]) -> list[FailureForm]:
    """Describe failures."""
    return [FailureForm(cell=one.cell, problem=one.problem) for one in failures]


def moment(when: datetime) -> str:
    """Write a time as ISO 8601, to the second."""
    return when.isoformat(timespec="seconds")
