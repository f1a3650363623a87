"""Cells with their figures as lists show them, and the filter over them by device and figure. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from builders.report.comparing import NOTHING
from phipack.web.source import Summary
from registry.ledger.versions import PRODUCTION, CellVersion
from targets.devices import Target
from targets.errors import MalformedReferenceError
from targets.evidence import FIGURES, Figure
from targets.formatting import figure, recipe_shown
from targets.references import Version

NEWEST = "newest"  # in place of a channel: each model's newest release
SPEED = ("device_decode_tokens_per_second", "predicted_decode_tokens_per_second")
SIZE, KL = "artifact_bytes", "kl_mean"
_GB = 1e9


@dataclass(frozen=True)
class CellRow:
    """One cell's version in a list. `device`: its target's title, or its name where the target is not known.

    `summary`: None where the evidence can't be read now.
    """

    version: CellVersion
    device: str
    summary: Summary | None

    @property
    def state(self) -> str:
        """What its evidence says: pass, warn or fail; none where that is not known."""
        return "none" if self.summary is None else self.summary.verdict.state

    @property
    def word(self) -> str:
        """The state as a word."""
        return "Not known" if self.summary is None else self.summary.verdict.word

    @property
    def why(self) -> str:
        """What the state comes from."""
        return "its evidence can't be read now" if self.summary is None else self.summary.verdict.text

    @property
    def figures(self) -> Mapping[str, Figure]:
        """The figures that are known."""
        return {} if self.summary is None else self.summary.figures

    @property
    def recipe(self) -> str:
        """The recipe with what it was built with."""
        row = self.version
        return recipe_shown(row.recipe, row.calibration, row.budget, row.kv_cache)

    @property
    def speed(self) -> Figure | None:
        """Tokens per second on the device: measured or claimed, else predicted."""
        return next((self.figures[name] for name in SPEED if name in self.figures), None)

    @property
    def speed_kind(self) -> str:
        """Whether that was measured, claimed or predicted."""
        return "" if self.speed is None else self.speed.kind

    def text(self, name: str) -> str:
        """Return a figure with its unit; a dash where it is not known."""
        found = self.speed if name == "speed" else self.figures.get(name)
        return NOTHING if found is None else figure(name, found.value, found.unit)

    def value(self, name: str) -> float | None:
        """Return a figure's value; None where it is not known."""
        found = self.speed if name == "speed" else self.figures.get(name)
        return None if found is None else found.value


def cell_rows(
    versions: Sequence[CellVersion], summaries: Mapping[str, Summary], targets: Mapping[str, Target]
) -> list[CellRow]:
    """Return the rows of versions."""
    return [CellRow(one, device_title(one.target, targets), summaries.get(one.reference)) for one in versions]


def device_title(target: str, targets: Mapping[str, Target]) -> str:
    """Return a target's title for people; its name where it is not known here."""
    known = targets.get(target)
    return (target or "no target") if known is None else known.title


@dataclass(frozen=True)
class Bound:
    """A bound on a figure: `name` as `CellRow.value` takes it."""

    name: str
    at_least: float = -math.inf
    at_most: float = math.inf


@dataclass(frozen=True)
class Filter:
    """What is looked for. `sent`: the form's fields as they were sent; `problems`: by field, why one was not used."""

    scope: str = PRODUCTION
    model: str = ""
    device: str = ""
    passing: bool = False
    bounds: tuple[Bound, ...] = ()
    sent: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, sent: Mapping[str, str]) -> Filter:
        """Read a form. What can't be understood is left out, and is one of the `problems`."""
        form = _Form(sent)
        speed, kl, size = (form.number(name) for name in ("speed", "kl", "size"))
        bounds = (
            () if speed is None else (Bound("speed", at_least=speed),),
            () if kl is None else (Bound(KL, at_most=kl),),
            () if size is None else (Bound(SIZE, at_most=size * _GB),),
            form.other_bound(),
        )
        return cls(
            sent.get("in", "").strip() or PRODUCTION,
            sent.get("model", "").strip(),
            sent.get("device", "").strip(),
            sent.get("passing") == "yes",
            tuple(bound for some in bounds for bound in some),
            sent,
            form.problems,
        )

    def versions(self, rows: Sequence[CellVersion], targets: Mapping[str, Target]) -> list[CellVersion]:
        """Return the versions in scope, before any figure is looked at."""
        newest: dict[str, Version] = {}
        for row in rows:
            newest[row.model] = max(row.release, newest.get(row.model, row.release))
        return [
            row
            for row in rows
            if self.model in ("", row.model)
            and (row.release == newest[row.model] if self.scope == NEWEST else self.scope in row.channels)
            and self._is_for(row.target, targets)
        ]

    def apply(self, rows: Sequence[CellRow]) -> tuple[list[CellRow], list[CellRow]]:
        """Return the rows that match, and those that may or may not: a figure that is bounded is not known of them."""
        found: list[CellRow] = []
        unknown: list[CellRow] = []
        for row in rows:
            values = [(bound, row.value(bound.name)) for bound in self.bounds]
            if self.passing and row.state == "fail":
                continue
            if any(value is not None and not bound.at_least <= value <= bound.at_most for bound, value in values):
                continue
            is_known = all(value is not None for _, value in values) and not (self.passing and row.state == "none")
            (found if is_known else unknown).append(row)
        return found, unknown

    def _is_for(self, target: str, targets: Mapping[str, Target]) -> bool:
        """Compare with a target's name, title, SoC and the names that its devices give themselves."""
        wanted = self.device.casefold()
        known = targets.get(target)
        names = [target] if known is None else [target, known.title, known.soc, *known.identifiers]
        return not wanted or any(wanted in name.casefold() for name in names)


@dataclass
class _Form:
    """Fields as they were sent, and what is wrong with them."""

    sent: Mapping[str, str]
    problems: dict[str, str] = field(default_factory=dict)

    def number(self, name: str, least: float = 0) -> float | None:
        """Return a field's number; None where it is empty, or no number that a bound can be."""
        text = self.sent.get(name, "").strip().replace(",", ".")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and value >= least:
            return value
        self.problems[name] = f"write a number{'' if least else ' of 0 or more'}, such as 12.5"
        return None

    def other_bound(self) -> tuple[Bound, ...]:
        """Return the bounds on the figure that is chosen by name."""
        name = self.sent.get("figure", "")
        least, most = self.number("least", -math.inf), self.number("most", -math.inf)
        if not name:
            if least is not None or most is not None:
                self.problems["figure"] = "choose the figure that this bounds"
            return ()
        if name not in FIGURES:
            self.problems["figure"] = "there is no such figure"
            return ()
        if least is None and most is None:
            if not self.problems.keys() & {"least", "most"}:
                self.problems["figure"] = "write at least one bound on it"
            return ()
        return (Bound(name, -math.inf if least is None else least, math.inf if most is None else most),)


def scope_named(scope: str, channels: Sequence[str]) -> str:
    """Return a scope as people read it. Raises `MalformedReferenceError` where there is no such channel."""
    if scope == NEWEST:
        return "each model's newest release"
    if scope not in channels and scope != PRODUCTION:
        raise MalformedReferenceError(
            f"no channel {scope!r} points at anything", fix=f"choose {', '.join(channels) or NEWEST}"
        )
    return f"channel {scope}"
