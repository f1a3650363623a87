"""What a group of checks found."""

from __future__ import annotations

from dataclasses import dataclass, field

from builders.reference import common_start
from targets.evidence_details import Check, CheckGroup, NotRun

_DETAIL_CHARACTERS = 400


@dataclass
class Findings:
    """Checks of one group as they come, and those that could not be run."""

    group: CheckGroup
    checks: list[Check] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)

    def equal(self, name: str, expected: object, found: object) -> None:
        """Check that two values are the same."""
        detail = "" if expected == found else f"expected {_apart(expected, found)}"
        self.holds(name, expected == found, detail)

    def holds(self, name: str, passed: bool, detail: str) -> None:
        """Check a condition. `detail`: what was expected and found where it does not hold."""
        shown = "" if passed else detail[:_DETAIL_CHARACTERS]
        self.checks.append(Check(group=self.group, name=name, passed=passed, detail=shown))

    def within(self, name: str, value: float, bound: float, unit: str, where: str = "") -> None:
        """Check that a value is at most its bound. NaN is not. `where`: added to what was found."""
        passed = value <= bound
        detail = "" if passed else f"expected at most {bound:.3g} {unit}, found {value:.3g} {unit}"
        detail = f"{detail}: {where}"[:_DETAIL_CHARACTERS] if detail and where else detail
        self.checks.append(
            Check(
                group=self.group,
                name=name,
                passed=passed,
                value=value if value == value else float("inf"),  # noqa: PLR0124 - JSON has no NaN
                bound=bound,
                unit=unit,
                detail=detail,
            )
        )

    def skip(self, name: str, reason: str) -> None:
        """Say that a check was not run, and why."""
        self.not_run.append(NotRun(group=self.group, name=name, reason=reason))


def _apart(expected: object, found: object) -> str:
    """Show both, from a little before the first difference where they are long."""
    both = [value if isinstance(value, str) else repr(value) for value in (expected, found)]
    start = max(0, common_start(*both) - 40)
    shown = [f"{'…' if start else ''}{value[start : start + 120]!r}" for value in both]
    return f"{shown[0]}, found {shown[1]}"
