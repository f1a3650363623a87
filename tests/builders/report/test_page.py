"""The page: whole, safe to open from a mail, and with everything that the evidence holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builders.report.content import CellContent, Content
from builders.report.page import html
from targets.evidence_details import NotRun
from tests.support.parsed_html import Element, parsed
from tests.support.report_samples import HOSTILE, POSITIONS, TEXTS, checks, details, small_bundle, subject


@pytest.fixture(scope="module")
def page(cell: CellContent) -> Element:
    return parsed(html(Content("phi:1.1.0", (cell,), against="phi:production")))


def test_nothing_is_loaded_or_run(page: Element) -> None:
    (policy,) = [one for one in page.all("meta") if one.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert not page.all("script", "img", "iframe", "object", "embed", "link", "form", "input")
    for element in page.all():
        assert not [name for name in element.attributes if name.startswith("on")], element
        for name in ("href", "src", "xlink:href"):
            assert element.attributes.get(name, "#").startswith("#"), element
    assert "@import" not in page.all("style")[0].text
    assert not re.findall(r"url\((?!#)", "".join(str(one.attributes) for one in page.all()))


def test_what_comes_from_outside_is_text(page: Element) -> None:
    """HTML is shown as it is written; a terminal's escape and a mark that turns the line around by their numbers."""
    assert HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e") in page.text
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text
    for said in [one for one in page.all("p") if one.attributes.get("class") in ("said", "prompt")]:
        assert said.attributes["dir"] == "auto"  # Arabic is read from the right, in its own paragraph alone


def test_every_reference_within_the_page_leads_somewhere(page: Element) -> None:
    ids = [one.attributes["id"] for one in page.all() if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    named = [one.attributes["href"] for one in page.all("a")]
    named += re.findall(r"url\((#[^)]*)\)", str([one.attributes for one in page.all()]))
    named += [f"#{name}" for one in page.all() for name in one.attributes.get("aria-labelledby", "").split()]
    named += [one.attributes["xlink:href"] for one in page.all() if "xlink:href" in one.attributes]
    assert len(named) > 20
    assert {name.removeprefix("#") for name in named} <= set(ids)


def test_verdict_and_gates_come_first(page: Element) -> None:
    order = [one.text for one in page.all("h1", "h2", "h3")]
    assert order[:5] == ["phi:1.1.0", "Cells", "iphone-15", "What to look at first", "What it is"]
    assert order[5:7] == ["What changes from phi:1.0.0@iphone-15", "Gates"]
    (first, *_) = [one for one in page.all("p") if one.attributes.get("class", "").startswith("verdict")]
    said = "Passes its gates; look at: 5 things to judge. 1 cell: every gate passes, and every check that was made."
    assert first.text == said
    assert "is-warn" in first.attributes["class"]
    assert _row(page, "cells", "iphone-15").startswith(
        "iphone-15 Look at 5 to judge the same recipe, checkpoint and tools, yet"
    )


def test_what_changes_stands_first_and_what_differs_is_marked(page: Element) -> None:
    rows = _rows(page, "app")
    names = [row.children[0].text for row in rows if row.children[1].text != "same"]
    assert names == ["stop ids", "chat template", "largest file", "download"]  # what an app must follow first
    assert [row.children[0].text for row in rows[: len(names)]] == names
    (kept,) = [one for one in page.all("details") if one.all("summary")[0].text.startswith("What stays the same: ")]
    folded = [row.children[0].text for row in kept.all("tr")[1:]]
    assert folded == [row.children[0].text for row in rows[len(names) :]]
    assert {"recipe", "checkpoint", "tools"} <= set(folded)
    (new,) = [one for one in page.all("pre") if one.attributes.get("class") == "is-new"]
    assert [one.text for one in new.all("mark")] == ["⏎\n"]
    files = {row.children[0].text: row.children[2].text for row in _rows(page, "files")}
    assert files == {"chat_template.jinja": "differs", "model.gguf": "differs"}


def test_all_of_the_evidence_is_there(page: Element, cell: CellContent) -> None:
    for name in TEXTS:
        assert _row(page, "divergences", name)
    for first, last, where, _ in POSITIONS:
        assert where in _row(page, "divergences", f"{first:,}\N{EN DASH}{last:,}")
    assert _row(page, "tasks", "SocialIQA").split()[:5] == ["SocialIQA", "74.10", "%", "71.50", "%"]
    assert "0.7 to 4.5, 95 %" in _row(page, "tasks", "SocialIQA")
    assert "Published, not measured here" in page.text
    assert _row(page, "safety", "StrongREJECT").split()[:4] == ["StrongREJECT", "100", "96", "95"]
    assert "-10%" in _row(page, "speed", "generation")  # 11.2 predicted, 12.4 on the device
    assert "1.2 GB 1.4 GB -200 MB" in _row(page, "storage", "Q4_0")
    assert "the app must follow" in _row(page, "app", "stop ids")
    assert "the app must follow" in _row(page, "app", "chat template")
    assert "same" in _row(page, "app", "minimum runtime")
    assert cell.candidate.manifest.digest in page.text
    assert cell.candidate.manifest.checkpoint in page.text


def test_answers_stand_in_three_columns_with_what_differs_marked(page: Element) -> None:
    sky = next(one for one in page.all("article") if "Why is the sky blue?" in one.text)
    assert [one.text for one in sky.all("h4")] == ["float32", "phi:1.0.0@iphone-15", "this: 1.1.0"]
    said = [one for one in sky.all("p") if one.attributes.get("class") == "said"]
    assert [one.text for one in said[0].all("mark")] == []
    assert [one.text for one in said[2].all("mark")] == ["blue", "red light", "called "]
    assert "differs from float32's after 8 tokens" in sky.text


def test_every_drawing_has_words_and_a_table(page: Element) -> None:
    drawings = [one for one in page.all("svg") if one.attributes.get("class") == "chart"]
    assert [one.all("title")[0].text.split(",")[0] for one in drawings] == [
        "KL divergence by text",
        "KL divergence by position in the sequence",
        "KL divergence by kind of token",
        "Drop of accuracy against float32",
        "Size by storage type",
    ]
    for drawing in drawings:
        assert drawing.attributes["role"] == "img"
        assert len(drawing.all("desc")[0].text) > 60
        written = str([one.attributes for one in drawing.all()])
        assert set(re.findall(r"var\(--(\w+)\)", written)) <= {"ink", "faint", "first", "second"}
        assert not re.findall(r"#[0-9a-f]{6}\b", written.replace("#ffffff", "")), "a colour that dark mode can't change"
        assert "regions" not in written
    chinese = drawings[0].all("desc")[0].text
    assert "chinese 0.049" in chinese


def test_what_was_not_measured_is_said_not_drawn(cell: CellContent, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle", stop_ids=[2], template="", q4=10**9)
    for found in (None, details(texts=(), positions=(), classes=(), checks=(), answers=(), tasks=(), safety=())):
        bare = parsed(html(Content("phi:1.1.0@pixel-9", (CellContent(subject(bundle, found, "phi:1.1.0@pixel-9")),))))
        for what in (
            "Divergence by text",
            "Divergence by position",
            "Divergence by kind of token",
            "Checks of behaviour",
            "Answers",
            "Tasks",
            "Safety",
            "On a device",
        ):
            assert f"{what}: not measured." in bare.text
        assert [one.all("title")[0].text for one in bare.all("svg") if one.all("title")] == ["Size by storage type"]
        assert "Compared with nothing" in bare.text


def test_failed_checks_are_on_top_with_what_was_found(cell: CellContent, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle", stop_ids=[2], template="", q4=10**9)
    wrong = checks(("ids", "stop id 32007 ends generation", "expected to stop after <|end|>; found 64 more tokens"))
    one = CellContent(subject(bundle, details(checks=wrong), "phi:1.1.0@pixel-9"))
    page = parsed(html(Content("phi:1.1.0", (one,))))
    table = next(one for one in page.all("table") if _is(one, "checks"))
    assert [cell.text for cell in table.all("tr")[1].children][:3] == ["FAILS", "stop id 32007 ends generation", "ids"]
    assert "found 64 more tokens" in table.all("tr")[1].text
    assert "Passes its gates, with failed checks: 1 of 1 cell: pixel-9." in page.text


def test_checks_that_were_not_run_are_in_the_table(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path / "bundle", stop_ids=[2], template="", q4=10**9)
    missing = (NotRun(group="cache", name="q8_0 at 4,096 tokens", reason="the runtime has no such cache"),)
    one = CellContent(subject(bundle, details(checks=(), not_run=missing), "phi:1.1.0@pixel-9"))
    page = parsed(html(Content("phi:1.1.0", (one,))))
    row = next(one for one in page.all("table") if _is(one, "checks")).all("tr")[1]
    assert [cell.text for cell in row.children] == [
        "not run",
        "q8_0 at 4,096 tokens",
        "cache",
        "\N{EN DASH}",
        "\N{EN DASH}",
        missing[0].reason,
    ]
    assert "0 of 0 pass; 1 not run." in page.text


def test_the_same_content_gives_the_same_page(cell: CellContent) -> None:
    content = Content("phi:1.1.0", (cell,), against="phi:production")
    assert html(content) == html(content)


def _rows(page: Element, table: str) -> list[Element]:
    return [row for one in page.all("table") if _is(one, table) for row in one.all("tr")[1:]]


def _row(page: Element, table: str, start: str) -> str:
    for one in page.all("table"):
        if _is(one, table):
            for row in one.all("tr"):
                if row.children[0].text.startswith(start):
                    return " ".join(cell.text for cell in row.children)
    raise AssertionError(f"no row {start} in {table}")


def _is(table: Element, name: str) -> bool:
    return name in table.attributes["class"].split()
