"""What is drawn, as numbers: the same that the tables next to the drawings have. `drawing.py` draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from builders.report.breakdown_rows import in_words
from builders.report.comparing import storage_rows
from builders.report.content import CellContent, Recorded, Subject, side_name
from builders.report.noise import SIGMAS
from builders.report.predictions import BREAKDOWNS, By, position_label
from targets.evidence_details import Details


@dataclass(frozen=True)
class Mark:
    """One value of a series, with its interval where it has one. `order`: what labels are sorted by, if anything."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Series:
    """Values of one side."""

    name: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Chart:
    """One drawing.

    Attributes:
        name: unique in a cell's section; also the name of the image's file.
        title: what it shows.
        axis: the quantity and its unit.
        kind: `dots` by label with intervals, `steps` along the labels in their order, or `bars` from zero.
        series: one or two, the candidate first.
        zero: draw a line at zero.
        also: what its table has besides, in words.
    """

    name: str
    title: str
    axis: str
    kind: Literal["dots", "steps", "bars"]
    series: tuple[Series, ...]
    zero: bool = False
    also: str = ""

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of all series, in their order."""
        orders = {mark.label: mark.order for one in self.series for mark in one.marks}
        return tuple(sorted(orders, key=lambda label: orders[label]))

    @property
    def description(self) -> str:
        """The drawing in words, for who can't see it."""
        parts = [
            f"{one.name}: " + ", ".join(f"{mark.label} {mark.value:.3g}" for mark in one.marks) for one in self.series
        ]
        also = f" {self.also}" if self.also else ""
        return f"{self.title}, {self.axis}. {'. '.join(parts)}.{also} The table has the same numbers."


_Marks = Callable[[Details], tuple[Mark, ...]]


def charts(cell: CellContent) -> dict[str, Chart]:
    """Return the drawings that a cell's evidence has numbers for, by name."""
    new, old = cell.candidate, cell.before
    kl = "mean KL divergence, nat"
    found = [
        _chart("texts", "KL divergence by text, with 95 % intervals", kl, "dots", _sides(new, old, _texts)),
        _chart("positions", "KL divergence by position in the sequence", kl, "steps", _sides(new, old, _positions)),
        _chart("classes", "KL divergence by kind of token", kl, "dots", _sides(new, old, _classes)),
        _chart(
            "tasks", "Drop of accuracy against float32, by task", "points", "dots", _sides(new, old, _tasks), zero=True
        ),
        _storage(cell),
    ]
    return {chart.name: _with_perplexities(cell, chart) for chart in found if chart is not None}


def _with_perplexities(cell: CellContent, chart: Chart) -> Chart:
    by: By | None = next((one for one in BREAKDOWNS if one == chart.name), None)
    return chart if by is None else replace(chart, also=in_words(cell, by))


def _chart(
    name: str,
    title: str,
    axis: str,
    kind: Literal["dots", "steps"],
    series: tuple[Series, ...],
    *,
    zero: bool = False,
) -> Chart | None:
    return Chart(name, title, axis, kind, series, zero) if series and series[0].marks else None


def _sides(new: Subject, old: Subject | Recorded | None, marks: _Marks) -> tuple[Series, ...]:
    if new.details is None:  # the baseline's alone would be taken for the candidate's
        return ()
    sides = [(side_name(new), new.details), *([] if old is None else [(side_name(old), old.details)])]
    found = [Series(name, marks(details)) for name, details in sides if details is not None]
    return tuple(one for place, one in enumerate(found) if one.marks or not place)


def _texts(details: Details) -> tuple[Mark, ...]:
    return tuple(_interval(one.text, one.kl_mean, one.kl_standard_error) for one in details.texts)


def _positions(details: Details) -> tuple[Mark, ...]:
    ordered = sorted(details.positions, key=lambda one: (one.first, one.last))
    return tuple(
        replace(
            _interval(position_label(one.first, one.last), one.kl_mean, one.kl_standard_error),
            order=(one.first, one.last),
        )
        for one in ordered
    )


def _classes(details: Details) -> tuple[Mark, ...]:
    return tuple(_interval(one.kind, one.kl_mean, one.kl_standard_error) for one in details.classes)


def _interval(label: str, value: float, error: float) -> Mark:
    return Mark(label, value, max(value - SIGMAS * error, 0.0), value + SIGMAS * error)


def _tasks(details: Details) -> tuple[Mark, ...]:
    return tuple(
        Mark(one.task, 100 * (one.reference_accuracy - one.accuracy), 100 * one.drop_low, 100 * one.drop_high)
        for one in details.tasks
    )


def _storage(cell: CellContent) -> Chart | None:
    rows = [row for row in storage_rows(cell) if row.bytes or row.before_bytes]
    if len(rows) < 2:
        return None
    new = Series(side_name(cell.candidate), tuple(Mark(row.storage, row.bytes / 1e9) for row in rows))
    series = [new]
    if cell.baseline is not None:
        old = tuple(Mark(row.storage, (row.before_bytes or 0) / 1e9) for row in rows)
        series.append(Series(side_name(cell.baseline), old))
    return Chart("storage", "Size by storage type", "GB", "bars", tuple(series))
