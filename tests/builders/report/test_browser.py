"""The page in Chromium: on a phone, wide, dark and printed; by keyboard; and by axe-core's rules of accessibility.

Pictures are not compared, as they change with every version of a font. What is checked is what would make them bad:
text over text, text that is cut off, a page wider than its window, colours too near to one another.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from builders.report.content import CellContent, Content
from builders.report.page import html
from devtools import axe
from tests.support.browser import Browser, running_browser
from tests.support.report_samples import answers, details

NARROW, WIDE, PAPER = 390, 1200, 718  # CSS pixels: a phone, a window, A4 between its margins
PICTURE = Path(__file__).parents[3] / "docs" / "report.png"
CSS = Path(__file__).parents[3] / "builders" / "report" / "templates" / "report.css"
_TEXTS_OF_CHARTS = """
[...document.querySelectorAll('svg.chart')].map(chart => {
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  return {chart: box(chart), texts: [...chart.querySelectorAll('text')].map(one => [one.textContent, ...box(one)])};
})"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("chromium") / "profile") as found:
        yield found


@pytest.fixture(scope="module")
def url(cell: CellContent, tmp_path_factory: pytest.TempPathFactory) -> str:
    page = tmp_path_factory.mktemp("page") / "report.html"
    page.write_bytes(html(Content("phi:1.1.0", (cell,), against="phi:production")))
    return page.as_uri()


def test_it_opens_without_a_complaint_or_a_request(browser: Browser, url: str) -> None:
    browser.open(url, width=WIDE)
    assert browser.complaints() == []
    assert browser.requested() == [url]
    assert browser.run("document.title") == "phi:1.1.0: report"
    for width in (NARROW, WIDE):
        browser.resize(width, 900)
        assert browser.run("document.scrollingElement.scrollWidth") == width
        _texts_of_charts_are_apart(browser, least_pixels=7 if width == NARROW else 10)


def test_tables_next_to_charts_are_whole_in_a_window(browser: Browser, url: str) -> None:
    """1100 pixels is the narrowest window with the two next to one another that reviewers were shown."""
    browser.open(url, width=1100)
    cut = "[...document.querySelectorAll('.pair .scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert browser.run(cut) == 0
    browser.run("document.querySelectorAll('.pair tbody th').forEach(e => e.textContent = 'openwebtext.txt');0")
    assert browser.run(cut) == 0


def test_a_long_heading_of_the_banner_stays_in_it(browser: Browser, url: str) -> None:
    browser.open(url, width=NARROW)
    browser.run("document.querySelector('.verdict b').textContent = 'Passes its gates; a probable defect';0")
    right = "getBoundingClientRect().right"
    banner, heading = browser.run(
        f"[...document.querySelectorAll('.verdict, .verdict b')].slice(0, 2).map(e => e.{right})"
    )
    assert heading <= banner


def test_a_phone_shows_every_cell_under_its_row_with_its_column_and_scrolls_nowhere(browser: Browser, url: str) -> None:
    browser.open(url, width=NARROW)
    browser.run("document.querySelectorAll('details').forEach(e => e.open = true);0")
    every = "[...document.querySelectorAll('.scroll, td, th, pre, .template')]"
    cut = f"{every}.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML.slice(0, 99))"
    assert browser.run(cut) == []
    assert browser.run("document.scrollingElement.scrollWidth") == NARROW
    unnamed = "[...document.querySelectorAll('tbody td:not(:first-child)')].filter(e => !e.dataset.label).length"
    assert browser.run(unnamed) == 0
    label = "getComputedStyle(document.querySelector('.gates td:last-child'), '::before').content"
    assert browser.run(label) == '"Asked by"'
    over = """[...document.querySelectorAll('tbody tr')].filter(row => {
        const cells = [...row.children].filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect());
        return cells.some(box => box.bottom > row.getBoundingClientRect().bottom + 1)}).length"""
    assert browser.run(over) == 0
    browser.resize(WIDE, 900)
    assert browser.run(label) == "none"


def test_a_phones_page_is_short_until_it_is_unfolded(browser: Browser, cell: CellContent, tmp_path: Path) -> None:
    """Twenty answers and everything measured: 26,000 pixels before there were folds."""
    evidence = cell.candidate.evidence
    assert evidence is not None
    twenty = details(answers=answers() * 5)
    many = replace(cell, candidate=replace(cell.candidate, evidence=evidence.model_copy(update={"details": twenty})))
    page = tmp_path / "report.html"
    page.write_bytes(html(Content("phi:1.1.0", (many,), against="phi:production")))
    browser.open(page.as_uri(), width=NARROW)
    height = "document.scrollingElement.scrollHeight"
    assert browser.run(height) <= 8000
    browser.run("document.querySelectorAll('details').forEach(e => e.open = true);0")
    assert browser.run(height) > 14000


def test_a_fold_opens_by_the_keyboard_and_all_are_open_in_print(browser: Browser, url: str) -> None:
    browser.open(url, width=NARROW)
    browser.run("document.querySelector('details:not([open]) > summary').focus()")
    is_open = "document.activeElement.parentElement.open"
    assert browser.run(is_open) is False
    browser.press("Enter")
    assert browser.run(is_open) is True
    hidden = """[...document.querySelectorAll('details > :not(summary)')]
        .filter(e => !e.checkVisibility({contentVisibilityAuto: true}) || !e.getBoundingClientRect().height).length"""
    assert browser.run(hidden) > 10
    browser.style(media="print")
    assert browser.run(hidden) == 0


def test_nothing_is_cut_off_in_print(browser: Browser, url: str) -> None:
    browser.open(url, width=PAPER, media="print")
    wider = "[...document.querySelectorAll('.scroll, svg, pre')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert browser.run(wider) == 0
    assert browser.run("document.scrollingElement.scrollWidth") == PAPER
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF-")
    assert 3 <= len(re.findall(rb"/Type */Page\b", pdf)) <= 15


def test_readers_and_keyboards_reach_everything(browser: Browser, url: str) -> None:
    """axe's rules but that of contrast, which takes it ten seconds: the colours are few, and checked below."""
    browser.open(url, width=NARROW)
    assert _violations(browser) == []
    every = "[...document.querySelectorAll('a[href], [tabindex], summary')]"
    shown = f"{every}.filter(e => e.checkVisibility({{contentVisibilityAuto: true, visibilityProperty: true}}))"
    expected = browser.run(f"{shown}.map(e => e.outerHTML.slice(0, 99))")
    assert sum(one.startswith("<summary") for one in expected) > 10
    reached = []
    for _ in expected:
        browser.press("Tab")
        reached.append(browser.run("document.activeElement.outerHTML.slice(0, 99)"))
    assert reached == expected
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert reached[0].startswith('<a class="skip"')


def test_two_checkpoints_are_shown_as_all_else_is(
    browser: Browser, other_checkpoint: CellContent, tmp_path: Path
) -> None:
    """The page of a cell whose production was made from another checkpoint: phone, window, print, rules."""
    page = tmp_path / "report.html"
    page.write_bytes(html(Content("phi:1.1.0", (other_checkpoint,), against="phi:production")))
    browser.open(page.as_uri(), width=NARROW)
    assert browser.complaints() == []
    assert _violations(browser) == []
    browser.run("document.querySelectorAll('details').forEach(e => e.open = true);0")
    cut = "[...document.querySelectorAll('.scroll, td, th')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert browser.run(cut) == 0
    assert browser.run("document.scrollingElement.scrollWidth") == NARROW
    for width, media in ((1100, ""), (PAPER, "print")):
        browser.open(page.as_uri(), width=width, media=media)
        browser.run("document.querySelectorAll('details').forEach(e => e.open = true);0")
        assert browser.run(cut.replace(".scroll, td, th", ".references, .divergences")) == 0
        wider = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)"
        assert browser.run(f"{wider}.filter(e => e.querySelector('.references, .divergences')).length") == 0


def test_dark_is_dark(browser: Browser, url: str) -> None:
    browser.open(url, dark=True)
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('svg.chart text')).fill"
    assert max(_rgb(browser.run(paper))) < 60
    assert min(_rgb(browser.run(ink))) > 200
    browser.style(dark=False)
    assert min(_rgb(browser.run(paper))) > 240
    assert max(_rgb(browser.run(ink))) < 60


def test_the_picture_in_the_docs_is_small(browser: Browser, url: str) -> None:
    """PICTURES=update takes it again."""
    if os.environ.get("PICTURES") == "update":
        browser.open(url, width=900, height=760)
        PICTURE.write_bytes(browser.screenshot(whole=False))
    assert PICTURE.read_bytes().startswith(b"\x89PNG")
    assert PICTURE.stat().st_size < 150_000


@pytest.mark.parametrize("block", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_from_what_they_are_on(block: int) -> None:
    """WCAG 2.1: 4.5 for text, 3 for what is drawn."""
    found = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", part)) for part in CSS.read_text("utf-8").split("@media")[:2]]
    assert found[0].keys() == found[1].keys()
    shown = found[block]
    on = {"ink": ("paper", "panel", "mark", "failbg"), "soft": ("paper",), "link": ("paper",)}
    on |= {name: ("paper", f"{name}bg") for name in ("pass", "warn", "fail")}
    for text, grounds in on.items():
        for ground in grounds:
            assert _contrast(shown[text], shown[ground]) >= 4.5, (text, ground)
    for drawn in ("first", "second", "link"):
        assert _contrast(shown[drawn], shown["paper"]) >= 3


def _violations(browser: Browser) -> list[list[str]]:
    browser.run(f"{axe.script()};0")
    rules = "{rules: {'color-contrast': {enabled: false}}}"
    found = browser.run(f"axe.run(document, {rules}).then(r => r.violations.map(v => [v.id, v.nodes[0].html]))")
    assert isinstance(found, list)
    return found


def _texts_of_charts_are_apart(browser: Browser, *, least_pixels: float) -> None:
    for found in browser.run(_TEXTS_OF_CHARTS):
        left, top, right, bottom = found["chart"]
        for text, *box in found["texts"]:
            assert box[0] >= left - 1 and box[1] >= top - 1, text  # noqa: PT018 - one corner
            assert box[2] <= right + 1 and box[3] <= bottom + 1, text  # noqa: PT018 - one corner
            assert box[3] - box[1] >= least_pixels, text
        level = [one for one in found["texts"] if one[4] - one[2] < 20]  # what is turned has a box with empty corners
        for one, other in itertools.combinations(level, 2):
            apart = one[3] <= other[1] or other[3] <= one[1] or one[4] <= other[2] or other[4] <= one[2]
            assert apart, (one, other)


def _rgb(colour: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", colour)[:3]]


def _contrast(one: str, other: str) -> float:
    """Return the contrast of two colours: WCAG 2.1, definitions of contrast ratio and relative luminance."""
    bright, dim = sorted(map(_luminance, (one, other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
