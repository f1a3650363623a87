"""The pages in Chromium: on a phone, wide, dark and printed; by keyboard; by axe-core's rules; without a complaint."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools import axe
from tests.support.browser import Browser, running_browser
from tests.support.catalog_pages import MODEL

NARROW, WIDE, PAPER = 390, 1200, 718  # CSS pixels: a phone, a window, A4 between its margins
PICTURE = Path(__file__).parents[3] / "docs" / "catalog-page.png"
_MINI = f"/models/{MODEL}"
PAGES = (
    "/",
    _MINI,
    f"{_MINI}/channels/production",
    f"{_MINI}/releases/1.2.0",
    f"{_MINI}/releases/1.1.0/cells/iphone-15",
    f"{_MINI}/history",
    "/cells?in=newest&speed=fast&figure=kl_mean&most=1",
    f"{_MINI}/prepare?do=promote&release=1.2.0&reason=it%27s+fine&show=yes",
)
_REPORT = f"{_MINI}/releases/1.1.0/cells/iphone-15/report"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("chromium") / "profile") as found:
        yield found


def test_no_page_complains_is_too_wide_or_breaks_a_rule(browser: Browser, url: str) -> None:
    """axe's rules but that of contrast: the colours are few, and the report's tests hold them to it."""
    script, rules = f"{axe.script()};0", "{rules: {'color-contrast': {enabled: false}}}"
    for page in PAGES:
        browser.open(url + page, width=NARROW)
        assert browser.complaints() == [], page
        assert {one.removeprefix(url) for one in browser.requested()} <= {page, "/style.css", "/icon.svg"}
        assert browser.run("document.scrollingElement.scrollWidth") == NARROW, page
        browser.run(script)
        found = browser.run(f"axe.run(document, {rules}).then(r => r.violations.map(v => [v.id, v.nodes[0].html]))")
        assert found == [], page
        browser.resize(WIDE, 900)
        assert browser.run("document.scrollingElement.scrollWidth") == WIDE, page


def test_a_phone_shows_rows_as_blocks_that_name_their_columns(browser: Browser, url: str) -> None:
    browser.open(f"{url}/cells?in=newest", width=NARROW)
    hidden = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert browser.run(hidden) == 0
    paddings = "[...new Set([...document.querySelectorAll('tbody td')].map(e => getComputedStyle(e).paddingLeft))]"
    assert browser.run(paddings) == ["140px"]  # where the names of the columns are
    label = "getComputedStyle(document.querySelector('td'), '::before').content"
    assert browser.run(label) == '"Phones"'
    browser.resize(WIDE, 900)
    assert browser.run(label) == "none"


def test_dark_is_dark_and_print_is_white_without_forms(browser: Browser, url: str) -> None:
    browser.open(f"{url}/cells", dark=True)
    of = "getComputedStyle(document.querySelector('%s')).%s"
    for element in ("body", "input", "select"):
        assert max(_rgb(browser.run(of % (element, "backgroundColor")))) < 60
        assert min(_rgb(browser.run(of % (element, "color")))) > 200
    browser.style(media="print")
    browser.resize(PAPER, 900)
    assert browser.run(of % ("form", "display")) == "none"
    assert min(_rgb(browser.run(of % ("body", "backgroundColor")))) > 240
    assert browser.run("document.scrollingElement.scrollWidth") == PAPER
    assert browser.pdf().startswith(b"%PDF-")


def test_a_keyboard_fills_in_the_form_and_reaches_the_command(browser: Browser, url: str) -> None:
    browser.open(f"{url}{_MINI}/prepare?do=promote&release=1.1.0&reason=it%27s+fine", width=NARROW)
    focused = "document.activeElement.outerHTML.slice(0, 60)"
    browser.press("Tab")
    assert browser.run(focused).startswith('<a class="skip"')
    assert browser.run("getComputedStyle(document.activeElement).position") == "static"
    for _ in range(20):
        if browser.run("document.activeElement.tagName") == "BUTTON":
            break
        browser.press("Tab")
        assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.events.clear()
    browser.run("document.activeElement.click()")
    browser._until(lambda event: event["method"] == "Page.loadEventFired")
    assert "show=yes" in browser.run("location.search")
    command = f"""phipack promote {MODEL}:1.1.0 --to production --reason 'it'"'"'s fine'"""
    assert browser.run("document.querySelector('pre.command').textContent") == command
    assert browser.run("document.querySelector('pre.command').tabIndex") == 0
    assert browser.complaints() == []


def test_a_report_shows_and_runs_nothing(browser: Browser, url: str) -> None:
    browser.open(url + _REPORT, width=NARROW)
    assert browser.complaints() == []
    assert browser.run("document.title").endswith(f"{MODEL}-1.1.0: report")
    assert browser.run("window.origin") == "null"
    assert browser.run("getComputedStyle(document.querySelector('h1')).fontWeight") == "700"
    browser.run("location.hash = '#cell1-gates'")
    assert browser.run("window.scrollY") > 100
    assert browser.run("document.scrollingElement.scrollWidth") == NARROW


def test_a_planted_report_runs_nothing_and_asks_nobody(browser: Browser, url: str) -> None:
    page = f"{url}{_MINI}/releases/1.1.0/cells/pixel-9/report"
    browser.open(page, width=NARROW)
    assert browser.run("document.title") == "planted"
    assert {one for one in browser.requested() if not one.startswith("https://evil.example")} == {page}
    blocked = "\n".join(browser.complaints())
    assert "Blocked script execution" in blocked
    assert "evil.example" in blocked
    browser.run("document.querySelector('button').click()")
    assert browser.run("location.pathname").endswith("/pixel-9/report")


def test_the_picture_in_the_docs_is_small(browser: Browser, url: str) -> None:
    """PICTURES=update takes it again."""
    if os.environ.get("PICTURES") == "update":
        browser.open(url + _MINI, width=1000, height=760)
        browser.run("document.querySelector('footer').remove()")
        PICTURE.write_bytes(browser.screenshot(whole=False))
    assert PICTURE.read_bytes().startswith(b"\x89PNG")
    assert PICTURE.stat().st_size < 150_000


def _rgb(colour: str) -> list[int]:
    return [int(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
