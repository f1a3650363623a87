"""Draws charts with matplotlib: SVG that follows the page's colours, or PNG for MLflow's pages.

In SVG the few colours are replaced by CSS variables (`report.css` sets them for light and dark), and text stays text,
in the page's own font. Identifiers get a prefix, as several drawings are in one page.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from builders.report.charts import Chart, Series
from targets.errors import SetupError
from targets.installation import install_command
from targets.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# CSS variable of an SVG -> the colour of a PNG on white. Two hues that stay apart with any colour vision.
_COLOURS = {"ink": "#1b1b1f", "faint": "#c8c8cf", "first": "#0b57a4", "second": "#b3541e"}
_MARKERS = ("o", "D")  # of the first and the second series: told apart without colour
_WIDTH = 5.2  # inches of 72 units: as wide as a phone, so that text is no smaller there than it is drawn
_ROW = 0.42
_TICKS = 4  # steps at most, so that numbers of four decimals stay apart next to long labels
_PREFIXED = re.compile(r'(\bid="|href="#|url\(#)')


@dataclass(frozen=True)
class Drawing:
    """A drawn chart. It is laid out once, as SVG: a PNG image has its parts at the same places."""

    chart: Chart
    _svg: str
    _figure: Figure

    def svg(self, prefix: str) -> str:
        """Return an SVG element with title and description. `prefix`: makes identifiers unique in a page."""
        drawn = self._svg[self._svg.index("<svg") :]
        for name, colour in _COLOURS.items():
            drawn = drawn.replace(f": {colour}", f": var(--{name})")
        drawn = _PREFIXED.sub(lambda match: f"{match[1]}{prefix}-", drawn)
        drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, count=1, flags=re.DOTALL)
        start = drawn.index(">") + 1
        head = re.sub(r' (?:width|height)="[^"]*pt"', "", drawn[:start])
        label = f'role="img" aria-labelledby="{prefix}-title {prefix}-desc" focusable="false"'
        head = head.replace("<svg", f'<svg class="chart" {label}', 1)
        title, words = escape(printable(self.chart.title)), escape(printable(self.chart.description))
        return f'{head}<title id="{prefix}-title">{title}</title><desc id="{prefix}-desc">{words}</desc>{drawn[start:]}'

    def png(self) -> bytes:
        """Return a PNG image on white."""
        with _settings():
            return _saved(self._figure, "png")


def draw(chart: Chart) -> Drawing:
    """Draw a chart. Raises `SetupError` where matplotlib is not installed."""
    with _settings():
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        _draw(figure, chart)
        drawn = _saved(figure, "svg").decode()
        figure.set_layout_engine("none")  # every form would be laid out again: a third of its time
    return Drawing(chart, drawn, figure)


def _saved(figure: Figure, form: Literal["svg", "png"]) -> bytes:
    content = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    figure.savefig(content, format=form, dpi=144, transparent=form == "svg", metadata=metadata)
    return content.getvalue()


@contextmanager
def _settings() -> Iterator[None]:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise SetupError("a report is drawn with matplotlib", fix=install_command("report")) from error

    settings: dict[str, Any] = {
        "svg.hashsalt": "phipack",  # the same numbers give the same file
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": _COLOURS["ink"],
        "axes.labelcolor": _COLOURS["ink"],
        "axes.edgecolor": _COLOURS["faint"],
        "xtick.color": _COLOURS["ink"],
        "ytick.color": _COLOURS["ink"],
        "text.parse_math": False,  # a label may have a dollar sign
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # In SVG the page's fonts have the letter; in PNG an empty square is all that can be shown.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        yield


def _draw(figure: Figure, chart: Chart) -> None:
    steps = chart.kind == "steps"
    rows = len(chart.labels) * (len(chart.series) + 1) / 2
    figure.set_size_inches(_WIDTH, 3.0 if steps else 1.1 + _ROW * rows)
    axis: Axes = figure.subplots()
    places = {label: place for place, label in enumerate(chart.labels)}
    for number, series in enumerate(chart.series):
        offset = 0.0 if len(chart.series) == 1 else (-0.16 if number == 0 else 0.16)
        colour = _COLOURS[("first", "second")[number]]
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
    _axes(axis, chart)
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


def _axes(axis: Axes, chart: Chart) -> None:
    from matplotlib.ticker import MaxNLocator

    along, across = (axis.yaxis, axis.xaxis) if chart.kind == "steps" else (axis.xaxis, axis.yaxis)
    across.set_ticks(range(len(chart.labels)), [printable(label) for label in chart.labels])
    if chart.kind == "steps":
        axis.set_ylabel(chart.axis)
        axis.set_ylim(bottom=0)
        axis.tick_params(axis="x", labelrotation=30)
    else:
        axis.invert_yaxis()
        axis.set_xlabel(chart.axis)
        axis.xaxis.set_major_locator(MaxNLocator(_TICKS))
        if not chart.zero:
            axis.set_xlim(left=0)
    if chart.zero:
        axis.axvline(0, color=_COLOURS["ink"], linewidth=1)
    along.grid(color=_COLOURS["faint"], linewidth=0.6)
    axis.set_axisbelow(True)
    across.set_tick_params(length=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
