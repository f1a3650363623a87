"""How the report looks, and how text gets into a page: what the report and the pages of `phipack serve` share.

Jinja2 escapes every value; before that, characters that are not shown but obeyed (controls, marks that turn a line
around) are written by their numbers, so that an answer can't rearrange what a reviewer reads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from builders.report.tables import labelled
from targets.errors import SetupError
from targets.installation import install_command
from targets.printable import printable

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def style() -> str:
    """Return the style sheet: light, dark and print."""
    return (TEMPLATES / "report.css").read_text("utf-8")


def environment(*folders: Path, text: Callable[[str], str] = printable) -> Environment:
    """Return what renders the templates in `folders`. `text`: what every text passes before it is escaped.

    Raises:
        SetupError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise SetupError("pages are written with Jinja2", fix=install_command("report")) from error

    def shown(value: object) -> object:
        return text(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    found = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["labelled"] = labelled
    return found


def kl(value: float) -> str:
    """Return a divergence in nats with three digits."""
    return f"{value:.3g}"
