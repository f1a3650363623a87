"""The report as one HTML file: no script, no address that a browser would load, all text from outside escaped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from builders.report.answers import answer_rows
from builders.report.charts import charts, position_label, side_name
from builders.report.comparing import app_changes, figure_rows, size_sentence, storage_rows
from builders.report.content import CellContent, Content, Subject
from builders.report.drawing import svg
from builders.report.findings import findings, overall, verdict
from builders.report.look import TEMPLATES, environment, kl, style
from builders.report.speeds import device_rows, speed_rows
from targets.formatting import bound, figure, recipe_shown, share, size
from targets.published import MODELS, PUBLISHED, SOURCE

if TYPE_CHECKING:
    from jinja2 import Environment


def html(content: Content) -> bytes:
    """Return the report.

    Raises:
        SetupError: Jinja2 or matplotlib is not installed.
    """
    template = _environment().get_template("report.html.jinja")
    cells = [_view(number, cell) for number, cell in enumerate(content.cells, start=1)]
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
    def details(self) -> Any:
        """Details of the evidence, or None."""
        return self.subject.details


def _view(number: int, cell: CellContent) -> CellView:
    from markupsafe import Markup

    prefix = f"cell{number}"
    drawings = {}
    for name, chart in charts(cell).items():
        drawings[name] = Markup(svg(chart, f"{prefix}-{name}"))  # noqa: S704 - drawing.py escapes what it writes
    return CellView(prefix, cell, cell.candidate.cell, cell.candidate, cell.baseline, drawings)


@cache
def _environment() -> Environment:
    found = environment(TEMPLATES)
    from markupsafe import Markup

    found.globals |= {
        "answer_rows": answer_rows,
        "app_changes": app_changes,
        "bound": bound,
        "device_rows": device_rows,
        "figure": figure,
        "figure_rows": figure_rows,
        "findings": findings,
        "position_label": position_label,
        "recipe": recipe_of,
        "share": share,
        "side_name": side_name,
        "size": size,
        "size_sentence": size_sentence,
        "speed_rows": speed_rows,
        "storage_rows": storage_rows,
        "verdict": verdict,
    }
    found.filters |= {"error": _error, "kl": kl, "style": Markup}
    return found


def recipe_of(subject: Subject) -> str:
    """Return a bundle's recipe with what it was built with."""
    entry = subject.manifest.recipe
    level = "none" if entry.calibration is None else entry.calibration.level
    return recipe_shown(entry.name, level, None if entry.budget is None else entry.budget.asked, entry.kv_cache)


def _error(value: float) -> str:
    return f"{value:.2g}"


def _published() -> dict[str, Any]:
    return {"source": SOURCE, "models": MODELS, "scores": PUBLISHED}
