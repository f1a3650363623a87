"""What the pages say, by whom they may be read, and what they do with strangers' text."""

from __future__ import annotations

import html
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import phipack
from phipack.web.app import create_pages
from phipack.web.source import Source
from registry.catalog.published_state import Published, read_published
from targets.errors import RegistryUnreachableError
from tests.support.catalog_pages import MODEL, OTHER, REASON, text_of
from tests.support.report_samples import HOSTILE

LINK = re.compile(r'(?:href|action)="([^"]*)"')
_MINI = f"/models/{MODEL}"


def pages_from(client: TestClient) -> Iterator[str]:
    """Every page that links and forms lead to."""
    waiting, seen = ["/"], {"/"}
    while waiting:
        path = waiting.pop()
        if path.endswith((".css", ".svg", "/report")):
            continue
        answer = client.get(path)
        yield path
        for link in map(html.unescape, LINK.findall(answer.text)):
            if link.startswith("/") and link not in seen:
                seen.add(link)
                waiting.append(link)


def test_every_link_leads_somewhere_and_no_page_trusts_a_text(client: TestClient) -> None:
    seen = list(pages_from(client))
    kinds = {re.sub(rf"{MODEL}|{OTHER}|\d\.\d\.\d|(?<=cells/)[a-z0-9-]+|\?.*", "*", path) for path in seen}
    assert {"/", "/cells", "/models/*", "/models/*/releases/*", "/models/*/releases/*/cells/*"} <= kinds
    assert {"/models/*/history", "/models/*/prepare*", "/models/*/channels/production"} <= kinds
    for path in seen:
        answer = client.get(path)
        assert answer.status_code == 200, path
        for never in ("<script", "<img", "onerror=alert(1)>\x1b", "secret", "\u202e", "\x1b", "javascript:", "style="):
            assert never not in answer.text, (path, never)
        assert answer.text.count("<h1>") == 1, path
        for link in LINK.findall(answer.text):
            assert link.startswith(("/", "#")), (path, link)  # nothing of another host; MLflow's pages are on a server


def test_a_reason_is_shown_as_it_was_written_but_for_its_password(client: TestClient) -> None:
    said = text_of(client, f"{_MINI}/history")
    assert REASON.partition("; see ")[0] in said
    assert "http://ann:***@wiki/page" in said
    assert r"\x1b[31mred\u202egnihton {{ 7*7 }}" in said
    assert HOSTILE.partition("\x1b")[0] in html.unescape(client.get(f"{_MINI}/history").text)


def test_why_a_release_is_made_stands_on_its_page(client: TestClient) -> None:
    said = text_of(client, f"{_MINI}/releases/1.2.0")
    assert f"Why it is made, in its makers' words: {REASON.partition('; see ')[0]}" in said
    assert "http://ann:***@wiki/page" in said
    assert "Why it is made" not in text_of(client, f"{_MINI}/releases/1.1.0")


def test_an_expired_catalog_is_none_that_phones_get(
    shown: phipack.Registry, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_published(shown.store, None)
    assert found.expires is not None
    assert not found.is_expired
    known = Source(shown, shown.store).published().value
    assert known is not None
    assert set(known.expiries) == {"root", *found.expiries}
    assert "Phones refuse" not in text_of(client, "/")
    assert replace(found, expiries={"root": datetime.now(UTC)}).is_expired
    monkeypatch.setattr(Published, "is_expired", property(lambda _: True))
    said = text_of(client, "/")
    assert "Phones refuse the published catalog" in said
    assert f"it expired on {found.expires:%Y-%m-%d}" in said
    assert "phipack publish --refresh" in said
    said = text_of(client, f"{_MINI}/channels/production")
    assert "the published catalog has expired: phones refuse it" in said
    assert "phones get what the registry has" not in said
    assert "of the installations get it" not in said


def test_what_differs_stands_side_by_side(client: TestClient) -> None:
    said = text_of(client, f"{_MINI}/channels/production")
    assert "Rolling out : phones get what the registry has, some of them for now." in said
    assert "1.1.0 to 10 %, 1.0.0 to the others" in said
    said = text_of(client, f"{_MINI}/channels/staging")
    assert "Not published : phones get nothing of this channel." in said
    said = text_of(client, f"/models/{OTHER}/channels/production")
    assert "Differs : what the registry has is not what phones get." in said
    assert "1.1.0 is not published yet: phones get 1.0.0" in said
    assert "taken out of the channel, and still published" in said
    assert f"phipack publish {OTHER} --channel production" in said
    said = text_of(client, _MINI)
    assert "production (10 %)" in said
    assert "Does not pass" in said


def test_a_release_names_what_fails_and_what_is_missing(client: TestClient) -> None:
    said = text_of(client, f"{_MINI}/releases/1.2.0")
    assert "Does not pass : 2 of 3 cells pass; planned and not registered: iphone-16." in said
    assert "1 of 4 gates fails: kl_mean" in said
    assert "This release is not published." in said
    said = text_of(client, f"{_MINI}/releases/1.1.0")
    assert "Passes : 3 of 3 cells pass." in said
    assert "As it is published Cells of the published release" in said


def test_a_cell_has_its_gates_figures_and_moves(client: TestClient) -> None:
    said = text_of(client, f"{_MINI}/releases/1.1.0/cells/iphone-15")
    for shown in (
        "Passes : all 4 gates and 10 checks of behaviour",
        "Published yes, these bytes",
        "iPhone 15 and 15 Plus (Apple A16, 6.44 GB of memory), iOS 18.0 or later",
        "passes kl_mean 0.0216 nat <= 0.05 nat 5 texts chinese",
        "device_decode_tokens_per_second 12.4 token/s measured iPhone15,4, iOS 18.1",
        "Promotion of 1.1.0 to production",
    ):
        assert shown in said
    assert "Promotion of 1.0.0" not in said


@pytest.mark.parametrize(
    ("query", "found", "unknown"),
    [
        ("in=production", 5, 0),
        ("in=production&device=iPhone15,4", 2, 0),
        ("in=production&device=apple+a16", 2, 0),
        (f"in=production&model={MODEL}&speed=12", 2, 0),  # pixel-9 is predicted to have 11.2
        (f"in=production&model={MODEL}&kl=0.02", 1, 0),
        (f"in=production&model={MODEL}&kl=0,02", 1, 0),
        ("in=production&size=0.000001", 0, 0),
        ("in=newest&passing=yes", 5, 0),
        ("in=newest", 6, 0),
        ("in=staging&figure=device_decode_tokens_per_second&least=13", 1, 1),
        ("in=staging&figure=perplexity_ratio&most=1", 0, 0),
        ("in=nowhere", 0, 0),
        ("device=nobody", 0, 0),
    ],
)
def test_cells_are_found_by_device_and_figure(client: TestClient, query: str, found: int, unknown: int) -> None:
    said = text_of(client, f"/cells?{query}")
    assert re.search(rf" {found} cells? of \d+: ", said), said
    assert ("without such a figure" in said) == bool(unknown)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("speed=fast", "write a number of 0 or more"),
        ("kl=-1", "write a number of 0 or more"),
        ("size=nan", "write a number of 0 or more"),
        ("figure=nonsense&most=1", "there is no such figure"),
        ("figure=kl_mean", "write at least one bound on it"),
        ("most=1", "choose the figure that this bounds"),
        ("in=nowhere", "choose production, staging"),
    ],
)
def test_what_no_filter_understands_is_said_at_its_field(client: TestClient, query: str, problem: str) -> None:
    page = client.get(f"/cells?{query}").text
    (described,) = re.findall(r'aria-invalid="true" aria-describedby="([^"]+)"', page)
    assert problem in re.search(rf'<p class="error" id="{described}">([^<]*)<', page)[1]  # type: ignore[index]


def test_a_report_is_opened_in_a_sandbox(client: TestClient) -> None:
    answer = client.get(f"{_MINI}/releases/1.1.0/cells/iphone-15/report")
    assert answer.text.startswith("<!doctype html>")
    policy = answer.headers["content-security-policy"].split("; ")
    assert policy[:3] == ["sandbox", "default-src 'none'", "style-src 'unsafe-inline'"]
    history = client.get(f"{_MINI}/history").text
    (link,) = {link for link in LINK.findall(history) if "/moves/" in link and "/iphone-15/" in link} & set(
        re.findall(r'href="([^"]*)" aria-label="Report of iphone-15 1.1.0, as it was promoted"', history)
    )
    assert client.get(link).text == answer.text


def test_no_run_is_opened_that_nothing_names(client: TestClient) -> None:
    for path in (f"{_MINI}/moves/{'0' * 32}/cells/iphone-15/report", f"{_MINI}/releases/9.9.9/cells/x/report"):
        text_of(client, path, 404)
    said = text_of(client, f"{_MINI}/releases/1.0.0/cells/pixel-9/report", 404)
    assert "has no report that can be read" in said
    assert "phipack report" in said


@pytest.mark.parametrize(
    "path",
    [
        *("/nothing", "/models", "/models/nope", f"{_MINI}/releases/9.9.9", f"{_MINI}/releases/latest", f"{_MINI}/"),
        *(f"{_MINI}/channels/nope", f"{_MINI}/releases/1.1.0/cells/nope", "/models/nope/prepare"),
        "/models/%3Cscript%3E",
    ],
)
def test_what_is_not_there_is_a_page_of_its_own(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "What helps:" in answer.text
    assert "<script" not in answer.text


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/style.css", "/icon.svg", f"{_MINI}/releases/1.1.0/cells/iphone-15/report"]
)
def test_every_answer_keeps_to_itself(client: TestClient, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    for headers in (got.headers, head.headers):
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "script-src" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
    for method in ("POST", "PUT", "DELETE"):
        assert client.request(method, path).status_code in (404, 405)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8081", "[::1]:8081", "LOCALHOST."])
def test_this_machine_s_names_are_answered(client: TestClient, host: str) -> None:
    answer = client.get("/", headers={"Host": host})
    assert answer.status_code == 200
    assert host not in answer.text


def test_each_loopback_address_is_guarded(shown: phipack.Registry) -> None:
    for address, host in (("127.0.0.5", "127.0.0.5:80"), ("::1", "[::1]"), ("localhost", "localhost")):
        pages = TestClient(create_pages(shown, host=address))
        assert pages.get("/style.css", headers={"Host": host}).status_code == 200
        assert pages.get("/style.css", headers={"Host": "evil.example"}).status_code == 421
    assert TestClient(create_pages(shown, host="pages.example")).get("/style.css").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost:x", "", "evil.example:8081"])
def test_no_other_name_is(client: TestClient, shown: phipack.Registry, host: str) -> None:
    """A site whose name is made to mean 127.0.0.1 would else read the pages in the browser of who runs them."""
    answer = client.get("/", headers={"Host": host})
    assert answer.status_code == 421
    assert MODEL not in answer.text
    everybody = TestClient(create_pages(shown, host="0.0.0.0"))
    assert (everybody.get("/", headers={"Host": host}).status_code, host in everybody.get("/").text) == (200, not host)


def test_a_registry_that_is_away_hides_nothing_that_is_published(shown: phipack.Registry) -> None:
    away = phipack.Registry("http://ann:secret@127.0.0.1:9", shown.store, home=shown.home)
    client = TestClient(create_pages(away), base_url="http://localhost")
    for path in ("/", _MINI, f"{_MINI}/channels/production", f"{_MINI}/releases/1.1.0", f"{_MINI}/history"):
        said = text_of(client, path)
        assert "The registry can't be read; what is published is shown" in said
        assert "secret" not in said
    assert "1.1.0 to 10 %, 1.0.0 to the others" in text_of(client, _MINI)
    assert "gguf-q4_0" in text_of(client, f"{_MINI}/releases/1.1.0")
    assert "Not known : both sides can't be compared now." in text_of(client, f"{_MINI}/channels/production")
    assert "0 cells of 0" in text_of(client, "/cells")
    for path in (f"{_MINI}/releases/1.2.0", f"{_MINI}/releases/1.1.0/cells/iphone-15", "/models/unknown"):
        assert "Not possible now" in text_of(client, path, 503)


def test_evidence_that_can_not_be_read_hides_no_cell(shown: phipack.Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: phipack.Registry, *__: object) -> None:
        raise RegistryUnreachableError("MLflow does not answer", fix="start it")

    monkeypatch.setattr(phipack.Registry, "evidence_of", fail)
    client = TestClient(create_pages(shown), base_url="http://localhost")
    said = text_of(client, f"{_MINI}/releases/1.1.0")
    assert "Not known : 0 of 3 cells pass; not known of 3" in said
    assert "The evidence can't be read." in said
    assert "pixel-9" in said
    assert "Not known : its evidence can't be read now" in text_of(client, f"{_MINI}/releases/1.1.0/cells/iphone-15")
    said = text_of(client, "/cells?passing=yes&kl=1")
    assert "0 cells of 5" in said
    assert "5 cells without such a figure" in said
    asked = {"do": "promote", "release": "1.1.0", "show": "yes"}
    said = text_of(client, f"{_MINI}/prepare?{urllib.parse.urlencode(asked)}")
    assert "pixel-9: its evidence can't be read now." in said


def test_a_catalog_that_is_damaged_hides_nothing_that_is_registered(shown: phipack.Registry, tmp_path: Path) -> None:
    for content, published in ((b"{}", "The published catalog can't be read"), (None, "nothing is published")):
        store = phipack.Registry(shown.tracking_uri, tmp_path / str(content), home=shown.home).store
        if content is not None:
            store.write_document("metadata/timestamp.json", content, replacing=None)
        pages = create_pages(phipack.Registry(shown.tracking_uri, store, home=shown.home))
        said = text_of(TestClient(pages, base_url="http://localhost"), _MINI)
        assert published in said
        assert "Promotion of 1.1.0 to production" in said


def test_an_empty_registry_says_so(tmp_path: Path) -> None:
    client = TestClient(create_pages(phipack.Registry(home=tmp_path)), base_url="http://localhost")
    assert "Nothing is registered, and nothing is published." in text_of(client, "/")
    assert "0 cells of 0" in text_of(client, "/cells")
    assert not list(tmp_path.iterdir())


def test_the_command_is_shown_with_what_stands_against_it(client: TestClient) -> None:
    asked = {"do": "promote", "release": "1.2.0", "channel": "production", "reason": 'it\'s "ok" <b>', "show": "yes"}
    answer = client.get(f"{_MINI}/prepare?{urllib.parse.urlencode(asked)}").text
    assert "<b>ok" not in answer
    said = text_of(client, f"{_MINI}/prepare?{urllib.parse.urlencode(asked)}")
    assert f"""phipack promote {MODEL}:1.2.0 --to production --reason 'it'"'"'s "ok" <b>'""" in said
    assert "Would be refused as things stand: pixel-9: 1 of 4 gates fails: kl_mean. iphone-16: planned and not" in said
    said = text_of(client, f"{_MINI}/prepare?{urllib.parse.urlencode(asked | {'release': '1.1.0'})}")
    assert "Nothing known stands against it" in said
    said = text_of(client, f"{_MINI}/prepare?{urllib.parse.urlencode(asked | {'override': 'yes', 'reason': ''})}")
    assert "Not prepared : an override needs a reason" in said
    assert "phipack promote" not in said
    assert "What it should do" in text_of(client, f"{_MINI}/prepare")


def test_pages_are_forms_and_tables_that_can_be_read(client: TestClient) -> None:
    """Each field has a label, each table a caption."""
    for path in ("/cells?in=newest", f"{_MINI}/prepare", f"{_MINI}/history", _MINI):
        page = client.get(path).text
        fields = re.findall(r'<(?:input|select)[^>]* id="([^"]+)"', page)
        assert set(fields) <= set(re.findall(r'<label for="([^"]+)"', page))
        assert page.count("<table") == page.count("<caption>")
