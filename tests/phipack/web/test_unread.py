"""What could not be read is not called missing: pages say that it is not known."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

import phipack
from phipack.web.app import create_pages
from phipack.web.pages import ChannelRow
from phipack.web.standing import STATES
from targets.errors import RegistryUnreachableError
from tests.support.catalog_pages import MODEL, text_of

_MINI = f"/models/{MODEL}"
_HERE = "http://localhost"


def test_a_catalog_that_can_not_be_read_is_not_called_empty(shown: phipack.Registry, tmp_path: Path) -> None:
    store = phipack.Registry(shown.tracking_uri, tmp_path / "store", home=shown.home).store
    store.write_document("metadata/timestamp.json", b"{}", replacing=None)
    client = TestClient(create_pages(phipack.Registry(shown.tracking_uri, store, home=shown.home)), base_url=_HERE)
    for path, said in (
        (_MINI, "production 1.1.0 not known Not known"),
        (_MINI, "phones: not known"),
        (_MINI, "all registered pass , 3 cells production not known promote"),
        (f"{_MINI}/channels/production", "1.1.0 not known Not known : the catalog can't be read"),
        (f"{_MINI}/releases/1.1.0", "As it is published Not known now."),
        (f"{_MINI}/releases/1.1.0/cells/iphone-15", "Published not known now"),
        ("/", "Catalog in"),
    ):
        text = text_of(client, path)
        assert said in text, path
        assert "not known now. By phipack" in text
        for never in ("nothing is published", "This release is not published", "phones: nothing", "Published no "):
            assert never not in text, path
    nothing = phipack.Registry(store=store, home=tmp_path / "home")
    text = text_of(TestClient(create_pages(nothing), base_url=_HERE), "/")
    assert "Nothing is registered." in text
    assert "nothing is published" not in text


def test_a_channel_without_cells_is_the_same_only_where_both_sides_are_read() -> None:
    assert ChannelRow("beta", "nothing", "nothing", ()).state == STATES["same"]
    assert ChannelRow("beta", "nothing", "not known", (), is_known=False).state == STATES["unknown"]


@pytest.mark.parametrize(
    ("method", "path", "said", "never"),
    [
        ("measurements", f"{_MINI}/releases/1.1.0/cells/iphone-15", "On devices Not known now.", "has no measurement"),
        ("history", f"{_MINI}/releases/1.1.0/cells/iphone-15", "this release Not known now.", "this release None."),
        ("history", f"{_MINI}/channels/production", "Last move that counts Not known now.", "The history has none."),
        (
            "noted",
            f"{_MINI}/releases/1.1.0",
            "Not known : 3 of 3 cells pass; which cells it plans is not known. Channels: production.",
            "Passes : 3 of 3",
        ),
    ],
)
def test_what_can_not_be_read_is_not_called_missing(
    shown: phipack.Registry, monkeypatch: pytest.MonkeyPatch, method: str, path: str, said: str, never: str
) -> None:
    def fail(_: phipack.Registry, *__: object) -> None:
        raise RegistryUnreachableError("it does not answer", fix="start it")

    monkeypatch.setattr(phipack.Registry, method, fail)
    text = text_of(TestClient(create_pages(shown), base_url=_HERE), path)
    assert said in text
    assert never not in text


def test_cells_without_a_verdict_are_not_said_to_be_without_a_figure(
    shown: phipack.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: phipack.Registry, *__: object) -> None:
        raise RegistryUnreachableError("MLflow does not answer", fix="start it")

    monkeypatch.setattr(phipack.Registry, "evidence_of", fail)
    text = text_of(TestClient(create_pages(shown), base_url=_HERE), "/cells?passing=yes")
    assert "5 cells without a verdict The evidence of these can't be read now" in text
    assert "A figure that was bounded" not in text
