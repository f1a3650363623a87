"""Pages as HTML, by Jinja2: every text is escaped, and neither moves a line around nor shows a password."""

from __future__ import annotations

import urllib.parse
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders.report.gate_rows import gate_rows
from builders.report.look import TEMPLATES as REPORT_TEMPLATES
from builders.report.look import environment, kl, style
from targets.evidence import FIGURES
from targets.formatting import bound, count, figure, share, size
from targets.printable import printable
from targets.secrets import without_secrets

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **shown: Any) -> bytes:
    """Return a page."""
    return _environment().get_template(f"{template}.html.jinja").render(**shown).encode("utf-8", "replace")


def load_templates() -> None:
    """Get ready to render. Raises `SetupError` where Jinja2 is not installed."""
    _environment()


@cache
def style_sheet() -> bytes:
    """Return the report's style sheet with what the pages have more."""
    return (style() + (_TEMPLATES / "pages.css").read_text("utf-8")).encode()


def path_of(*parts: object, **query: str) -> str:
    """Return the path of a page: `/models/phi/releases/1.0.0`."""
    path = "/" + "/".join(urllib.parse.quote(str(part), safe="") for part in parts)
    asked = urllib.parse.urlencode({name: value for name, value in query.items() if value})
    return f"{path}?{asked}" if asked else path


@cache
def _environment() -> Environment:
    found = environment(_TEMPLATES, REPORT_TEMPLATES, text=_harmless)
    found.globals |= {
        "FIGURES": FIGURES,
        "bound": bound,
        "count": count,
        "figure": figure,
        "gate_rows": gate_rows,
        "path": path_of,
        "share": share,
        "size": size,
    }
    found.filters |= {"kl": kl, "moment": _moment, "age": _age}
    return found


def _harmless(text: str) -> str:
    return printable(without_secrets(text))


def _moment(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M}"


def _age(seconds: float) -> str:
    return "now" if seconds < 1 else f"{seconds:.0f} s ago"
