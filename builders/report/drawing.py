"""Draws charts with matplotlib: SVG that follows the page's colours, or PNG for MLflow's pages.

In SVG every colour is one of a few stand-ins, replaced by CSS variables afterwards (`report.css` sets them for light
and dark), and text stays text, in the page's own font. Identifiers get a prefix, as several drawings are in one page.
"""

from __future__ import annotations

import io
import re
import warnings
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from builders.report.charts import Chart, Series
from targets.errors import SetupError
from targets.installation import install_command
from targets.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-in (in SVG) -> CSS variable, and the colour of a PNG on white. Two hues that stay apart with any colour vision.
_COLOURS = {
    "ink": ("#010203", "#1b1b1f"),
    "faint": ("#040506", "#c8c8cf"),
    "first": ("#070809", "#0b57a4"),
    "second": ("#0a0b0c", "#b3541e"),
}
_MARKERS = ("o", "D")  # of the first and the second series: told apart without colour
_WIDTH = 5.2  # inches of 72 units: as wide as a phone, so that text is no smaller there than it is drawn
_ROW = 0.42
_PREFIXED = re.compile(r'(\bid="|href="#|url\(#)')


def svg(chart: Chart, prefix: str) -> str:
    """Return a chart as an SVG element with title and description. `prefix`: makes identifiers unique in a page."""
    drawn = _saved(chart, "svg").decode()
    drawn = drawn[drawn.index("<svg") :]
    for name, (stand_in, _) in _COLOURS.items():
        drawn = drawn.replace(stand_in, f"var(--{name})")
    drawn = _PREFIXED.sub(lambda match: f"{match[1]}{prefix}-", drawn)
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, count=1, flags=re.DOTALL)
    start = drawn.index(">") + 1
    head = re.sub(r' (?:width|height)="[^"]*pt"', "", drawn[:start])
    label = f'role="img" aria-labelledby="{prefix}-title {prefix}-desc" focusable="false"'
    head = head.replace("<svg", f'<svg class="chart" {label}', 1)
    title, words = escape(printable(chart.title)), escape(printable(chart.description))
    return f'{head}<title id="{prefix}-title">{title}</title><desc id="{prefix}-desc">{words}</desc>{drawn[start:]}'


def png(chart: Chart) -> bytes:
    """Return a chart as a PNG image on white."""
    return _saved(chart, "png")


def _saved(chart: Chart, form: Literal["svg", "png"]) -> bytes:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SetupError("a report is drawn with matplotlib", fix=install_command("report")) from error

    colours = {name: pair[0 if form == "svg" else 1] for name, pair in _COLOURS.items()}
    content = io.BytesIO()
    settings: dict[str, Any] = {
        "svg.hashsalt": "phipack",  # the same numbers give the same file
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": colours["ink"],
        "axes.labelcolor": colours["ink"],
        "axes.edgecolor": colours["faint"],
        "xtick.color": colours["ink"],
        "ytick.color": colours["ink"],
        "text.parse_math": False,  # a label may have a dollar sign
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # In SVG the page's fonts have the letter; in PNG an empty square is all that can be shown.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        figure = Figure(layout="constrained")
        _draw(figure, chart, colours)
        figure.savefig(
            content,
            format=form,
            dpi=144,
            transparent=form == "svg",
            metadata={"Date": None} if form == "svg" else {"Software": None},
        )
    return content.getvalue()


def _draw(figure: Figure, chart: Chart, colours: dict[str, str]) -> None:
    steps = chart.kind == "steps"
    rows = len(chart.labels) * (len(chart.series) + 1) / 2
    figure.set_size_inches(_WIDTH, 3.0 if steps else 1.1 + _ROW * rows)
    axis: Axes = figure.subplots()
    places = {label: place for place, label in enumerate(chart.labels)}
    for number, series in enumerate(chart.series):
        offset = 0.0 if len(chart.series) == 1 else (-0.16 if number == 0 else 0.16)
        colour = colours[("first", "second")[number]]
        look = {"color": colour, "marker": _MARKERS[number], "label": printable(series.name)}
        at = [places[mark.label] + offset for mark in series.marks]
        if steps:
            _steps(axis, series, at, look)
        elif chart.kind == "bars":
            hatch = ("", "////")[number]
            width = 0.6 / len(chart.series)
            values = [mark.value for mark in series.marks]
            fill = colour if number == 0 else "none"
            axis.barh(at, values, width, color=fill, edgecolor=colour, hatch=hatch, label=look["label"])
        else:
            _dots(axis, series, at, look)
    _axes(axis, chart, colours)
    if len(chart.series) > 1:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)


def _dots(axis: Axes, series: Series, at: list[float], look: dict[str, Any]) -> None:
    for place, mark in zip(at, series.marks, strict=True):
        if mark.low is not None and mark.high is not None:
            axis.plot([mark.low, mark.high], [place, place], color=look["color"], linewidth=2, solid_capstyle="butt")
    axis.plot([mark.value for mark in series.marks], at, linestyle="", markersize=6, **look)


def _steps(axis: Axes, series: Series, at: list[float], look: dict[str, Any]) -> None:
    for place, mark in zip(at, series.marks, strict=True):
        if mark.low is not None and mark.high is not None:
            axis.plot([place, place], [mark.low, mark.high], color=look["color"], linewidth=2, solid_capstyle="butt")
    axis.plot(at, [mark.value for mark in series.marks], linewidth=1, markersize=5, **look)


def _axes(axis: Axes, chart: Chart, colours: dict[str, str]) -> None:
    along, across = (axis.yaxis, axis.xaxis) if chart.kind == "steps" else (axis.xaxis, axis.yaxis)
    across.set_ticks(range(len(chart.labels)), [printable(label) for label in chart.labels])
    if chart.kind == "steps":
        axis.set_ylabel(chart.axis)
        axis.set_ylim(bottom=0)
        axis.tick_params(axis="x", labelrotation=30)
    else:
        axis.invert_yaxis()
        axis.set_xlabel(chart.axis)
        if not chart.zero:
            axis.set_xlim(left=0)
    if chart.zero:
        axis.axvline(0, color=colours["ink"], linewidth=1)
    along.grid(color=colours["faint"], linewidth=0.6)
    axis.set_axisbelow(True)
    across.set_tick_params(length=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
