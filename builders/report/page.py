"""The report as one HTML file: no script, no address that a browser would load, all text from outside escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from builders.report.answers import answer_rows, same_as_before
from builders.report.at_a_glance import at_a_glance
from builders.report.breakdown_rows import breakdown_rows
from builders.report.changes import app_changes, origin_changes, own_checkpoint
from builders.report.charts import charts
from builders.report.comparing import figure_rows, figures_in_short, size_sentence, storage_rows
from builders.report.content import CellContent, Content, Recorded, Subject, side_name
from builders.report.drawing import Drawing, draw
from builders.report.findings import findings, judged, overall, to_look_at, verdict
from builders.report.gate_rows import gate_rows
from builders.report.look import TEMPLATES, environment, kl, style
from builders.report.reach import reach_unknown
from builders.report.recipes import recipe_on
from builders.report.refusals import before as refused_before
from builders.report.regressions import is_same_bundle
from builders.report.speeds import device_rows, speed_rows
from builders.report.template_difference import blocks, example_blocks
from builders.report.two_references import (
    in_short,
    reference_answers,
    reference_rows,
    score_rows,
)
from builders.report.usual import usual
from targets.formatting import bound, count, figure, share, size
from targets.published import MODELS, PUBLISHED, SOURCE

if TYPE_CHECKING:
    from jinja2 import Environment


Drawings = Mapping[str, Drawing]  # of a cell, by name


def drawings(cell: CellContent) -> Drawings:
    """Return a cell's charts, drawn. Raises `SetupError` where matplotlib is not installed."""
    return {name: draw(chart) for name, chart in charts(cell).items()}


def html(content: Content, drawn: Sequence[Drawings] | None = None) -> bytes:
    """Return the report. `drawn`: the drawings of each cell, where there are any already.

    Raises:
        SetupError: Jinja2 or matplotlib is not installed.
    """
    template = _environment().get_template("report.html.jinja")
    found = [drawings(cell) for cell in content.cells] if drawn is None else drawn
    cells = [_view(number, *one) for number, one in enumerate(zip(content.cells, found, strict=True), start=1)]
    text = template.render(
        content=content,
        cells=cells,
        overall=overall(content),
        published=_published(),
        css=style(),
    )
    return text.encode()


@dataclass(frozen=True)
class CellView:
    """What the template shows of one cell."""

    id: str
    cell: CellContent
    name: str
    subject: Subject
    baseline: Subject | None
    drawings: dict[str, Any]

    @property
    def before(self) -> Subject | Recorded | None:
        """What has the evidence that it is compared with."""
        return self.cell.before

    @property
    def details(self) -> Any:
        """Details of the evidence, or None."""
        return self.subject.details


def _view(number: int, cell: CellContent, drawn: Drawings) -> CellView:
    from markupsafe import Markup

    prefix = f"cell{number}"
    written = {}
    for name, drawing in drawn.items():
        written[name] = Markup(drawing.svg(f"{prefix}-{name}"))  # noqa: S704 - drawing.py escapes what it writes
    return CellView(prefix, cell, cell.candidate.cell, cell.candidate, cell.baseline, written)


@cache
def _environment() -> Environment:
    found = environment(TEMPLATES)
    from markupsafe import Markup

    found.globals |= {
        "answer_rows": answer_rows,
        "app_changes": app_changes,
        "at_a_glance": at_a_glance,
        "bound": bound,
        "breakdown_rows": breakdown_rows,
        "count": count,
        "device_rows": device_rows,
        "figure": figure,
        "figure_rows": figure_rows,
        "figures_in_short": figures_in_short,
        "findings": findings,
        "gate_rows": gate_rows,
        "judged": judged,
        "origin_changes": origin_changes,
        "own_checkpoint": own_checkpoint,
        "reach_unknown": reach_unknown,
        "recipe": recipe_on,
        "reference_answers": reference_answers,
        "reference_rows": reference_rows,
        "references_in_short": in_short,
        "same_as_before": same_as_before,
        "score_rows": score_rows,
        "share": share,
        "side_name": side_name,
        "size": size,
        "size_sentence": size_sentence,
        "speed_rows": speed_rows,
        "storage_rows": storage_rows,
        "template_blocks": blocks,
        "example_blocks": example_blocks,
        "is_same_bundle": is_same_bundle,
        "refused_before": refused_before,
        "to_look_at": to_look_at,
        "usual": usual,
        "verdict": verdict,
    }
    found.filters |= {"error": _error, "kl": kl, "style": Markup}
    return found


def _error(value: float) -> str:
    return f"{value:.2g}"


def _published() -> dict[str, Any]:
    return {"source": SOURCE, "models": MODELS, "scores": PUBLISHED}
