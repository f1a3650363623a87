"""A report that is written where an older one is."""

from __future__ import annotations

from pathlib import Path

from tests.faults.channels import prepare_releases
from tests.faults.ground import Ground, names

PAGE = Path("place/report.html")
IMPORTS = ("jinja2", "matplotlib.figure", "matplotlib.backends.backend_svg", "builders.report.page")
_OLD = "an older report"


def prepare_older(ground: Ground) -> None:
    """Two releases, and a report of an earlier time."""
    prepare_releases(ground)
    PAGE.parent.mkdir()
    PAGE.write_text(_OLD)


def page_or_older(_: Ground) -> None:
    """The file is the old one or the new one, whole."""
    text = PAGE.read_text("utf-8")
    assert text == _OLD or text.rstrip().endswith("</html>")


def reported(_: Ground) -> None:
    """The page is of the release."""
    assert "<h1>phi:1.1.0</h1>" in PAGE.read_text("utf-8")


def page_is_alone(_: Ground) -> None:
    """Nothing is next to the page."""
    assert names(PAGE.parent) == [PAGE.name]
