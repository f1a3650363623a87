"""An app with older runtimes gets the newest release that it can run, from both clients, and learns why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from devtools.bundles import make_bundle
from devtools.catalogs import MODEL, Publisher
from devtools.servers import RangeHandler, serving
from registry.bundle.folder import seal
from registry.catalog.choice import Query
from registry.catalog.client import CatalogTrust
from registry.catalog.documents import ChannelDocument
from registry.catalog.earlier import LIMIT
from registry.catalog.http_service import create_app
from registry.catalog.published_state import read_published
from registry.fetch import Fetched, fetch, fetch_from_catalog
from registry.publication import Order
from registry.transfer.bundle_download import DownloadOptions
from targets.errors import FetchError, FitError
from targets.references import Reference
from targets.runtimes import Offer, VersionGap, table
from targets.runtimes.table import requires
from targets.selection import Device
from tests.clients.plain_client import Wish
from tests.clients.plain_trust import Refused
from tests.support.plain_installs import IPHONE, Plain

PHI_3, PHI_4_MINI = "gguf/architecture/phi3", "gguf/pre/gpt-4o"  # llama.cpp b2717, b4792


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """1.0.0 runs in any app that runs Phi-3; 1.1.0 and 1.2.0 have Phi-4-mini's tokenizer."""
    made = Publisher(tmp_path / "publisher")
    release(made, "1.0.0", PHI_3)
    for version in ("1.1.0", "1.2.0"):
        release(made, version, PHI_3, PHI_4_MINI)
    return made


def release(publisher: Publisher, version: str, *features: str, percent: float = 100) -> None:
    bundle = make_bundle(publisher.folder / "bundles" / version, {"model.gguf": version.encode() * 1000})
    needed = requires(features) if features else None
    publisher.add(version, seal(bundle.path, bundle.manifest.model_copy(update={"requires": needed})))
    publisher.publish(percent)


@pytest.fixture
def url(publisher: Publisher) -> Iterator[str]:
    with serving(publisher.place.root, kind=RangeHandler) as address:
        yield address


def ask(
    publisher: Publisher, url: str, runtime: str = "", reference: str | None = None, name: str = "a phone"
) -> Fetched:
    folder = publisher.folder / "phone"
    query = Query(
        None if reference is None else Reference.parse(reference),
        Device(IPHONE.identifier),
        install_id="a phone",
        offer=Offer.parse([runtime] if runtime else []),
    )
    trust = CatalogTrust(publisher.root, folder / "state")
    return fetch_from_catalog(url, folder / "bundle", query, DownloadOptions(replace=True), trust=trust)


def ask_plain(publisher: Publisher, url: str, runtime: str) -> str:
    runtimes = dict([runtime.split("=")]) if runtime else {}
    plain = Plain(publisher.folder / f"plain {runtime}", url, publisher.root)
    return plain.fetch(Wish(MODEL, runtimes=runtimes))[1]


def channel(publisher: Publisher) -> ChannelDocument:
    found = read_published(publisher.place, publisher.keys).channel(MODEL, "production")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("runtime", "version"),
    [("", "1.2.0"), ("llama.cpp=b4792", "1.2.0"), ("llama.cpp=b4791", "1.0.0"), ("llama.cpp=b2717", "1.0.0")],
)
def test_both_clients_get_the_newest_that_the_app_can_run(
    publisher: Publisher, url: str, runtime: str, version: str
) -> None:
    fetched = ask(publisher, url, runtime)
    assert fetched.reference == f"{MODEL}:{version}@iphone-15"
    assert ask_plain(publisher, url, runtime) == version
    said = "; ".join(fetched.reasons)
    newer = "1.2.0: it needs llama.cpp b4792 or later, and the app has"
    assert (newer in said) == (version == "1.0.0")


@pytest.mark.parametrize("runtime", ["llama.cpp=b2716", "onnxruntime=1.32.0"])
def test_an_app_that_can_run_no_release_learns_what_it_would_need(publisher: Publisher, url: str, runtime: str) -> None:
    with pytest.raises(FetchError, match=r"the app can't run what is published for it: 1\.2\.0: ") as caught:
        ask(publisher, url, runtime)
    wanted = "ship llama.cpp b4792 or later" if "llama" in runtime else "add llama.cpp to the app"
    assert wanted in caught.value.fix
    with pytest.raises(Refused, match="no release runs on the app's runtimes"):
        ask_plain(publisher, url, runtime)


def test_a_version_that_was_asked_for_is_refused_before_its_download(publisher: Publisher, url: str) -> None:
    with pytest.raises(FetchError, match=r"it needs llama\.cpp b4792 or later, and the app has b4000"):
        ask(publisher, url, "llama.cpp=b4000", f"{MODEL}:1.2.0")
    assert not (publisher.folder / "phone" / "bundle").exists()
    assert ask(publisher, url, "llama.cpp=b4000", f"{MODEL}:^1.0").reference == f"{MODEL}:1.0.0@iphone-15"


def test_only_releases_that_serve_more_apps_are_kept(publisher: Publisher) -> None:
    assert channel(publisher).earlier == {"iphone-15": ("1.0.0",), "pixel-9": ("1.0.0",)}
    release(publisher, "1.3.0", PHI_3)  # runs wherever 1.0.0 does
    assert channel(publisher).earlier == {}


def test_what_was_rolled_back_is_never_offered_again(publisher: Publisher, url: str) -> None:
    release(publisher, "1.3.0", "gguf/tensor/IQ4_NL")  # b2221: for the oldest apps, and broken
    assert ask(publisher, url, "llama.cpp=b2221").reference == f"{MODEL}:1.3.0@iphone-15"
    publisher.point_back("1.0.0")
    publisher.publish()
    assert channel(publisher).earlier == {}
    release(publisher, "1.4.0", PHI_3, PHI_4_MINI)
    assert channel(publisher).earlier["iphone-15"] == ("1.0.0",)
    with pytest.raises(FetchError, match="can't run what is published"):
        ask(publisher, url, "llama.cpp=b2221")


def test_the_list_is_bounded_and_can_be_emptied(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "publisher")
    features = ("gguf/architecture/llama", "gguf/tensor/IQ2_XXS", "gguf/tensor/IQ3_XXS", "gguf/tensor/IQ4_NL")
    features = (*features, "gguf/tensor/IQ4_XS", PHI_3, "gguf/pre/dbrx", PHI_4_MINI)  # each needs a later llama.cpp
    for number, feature in enumerate(features):
        release(publisher, f"1.{number}.0", feature)
    assert channel(publisher).earlier["iphone-15"] == tuple(f"1.{number}.0" for number in (6, 5, 4, 3, 2))[:LIMIT]
    publisher.publish()
    assert len(channel(publisher).earlier["iphone-15"]) == LIMIT
    publication = publisher.publish(order=Order(MODEL, "production", newest_only=True))
    assert [cell.earlier for cell in publication.cells] == [(), ()]
    assert channel(publisher).earlier == {}


def test_an_older_app_among_the_first_keeps_the_release_before(publisher: Publisher, url: str) -> None:
    release(publisher, "2.0.0", "gguf/tensor/MXFP4", percent=99.99)  # b6096
    assert ask(publisher, url, "llama.cpp=b6096").reference == f"{MODEL}:2.0.0@iphone-15"
    assert ask(publisher, url, "llama.cpp=b5000").reference == f"{MODEL}:1.2.0@iphone-15"
    assert ask(publisher, url, "llama.cpp=b4000").reference == f"{MODEL}:1.0.0@iphone-15"
    assert [ask_plain(publisher, url, f"llama.cpp=b{build}") for build in (6096, 5000, 4000)] == [
        "2.0.0",
        "1.2.0",
        "1.0.0",
    ]


def test_a_bundle_that_says_nothing_is_not_refused(publisher: Publisher, url: str) -> None:
    release(publisher, "1.3.0")
    assert ask(publisher, url, "llama.cpp=b1").reference == f"{MODEL}:1.3.0@iphone-15"
    assert ask_plain(publisher, url, "llama.cpp=b1") == "1.3.0"


@pytest.mark.parametrize("os", [None, "Android", "Linux"])
def test_a_folder_is_refused_before_it_is_copied(tmp_path: Path, os: str | None) -> None:
    made = make_bundle(tmp_path / "made", {"model.onnx": b"graph"})
    recipe = made.manifest.recipe.model_copy(update={"format": "onnx"})
    gap = VersionGap(first="1.24.0", fixed_in="1.25.0", os="Android")
    needed = requires(["onnx/operator/MatMulNBits/bits=8"])
    needed = needed.model_copy(update={"runtimes": (needed.runtimes[0].model_copy(update={"gaps": (gap,)}),)})
    bundle = seal(made.path, made.manifest.model_copy(update={"recipe": recipe, "requires": needed}))

    def fetched(version: str) -> Fetched:
        options = DownloadOptions(offer=Offer.parse([f"onnxruntime={version}"]), os=os, replace=True)
        return fetch(str(bundle.path), tmp_path / "out", options)

    with pytest.raises(FitError, match=r"1\.23\.0 or later.*the app has 1\.22\.0 .*#24769") as caught:
        fetched("1.22.0")
    assert caught.value.fix == "ship onnxruntime 1.23.0 or later in the app"
    if os == "Android":
        with pytest.raises(FitError, match=r"but not 1\.24\.0 up to, and without, 1\.25\.0 on Android") as caught:
            fetched("1.24.1")
        assert caught.value.fix == "ship onnxruntime 1.23.0 or later in the app"
        assert not (tmp_path / "out").exists()
    else:
        fetched("1.24.1")
    fetched("1.25.0")


def test_what_the_publisher_s_table_learned_later_counts(
    publisher: Publisher, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest of a release does not change; the release's document is written with today's table."""
    rows = table.load_table().rows
    learned = [row.model_copy(update={"minimum": "b7000"}) if row.feature == PHI_4_MINI else row for row in rows]
    with_more = table.load_table().model_copy(update={"rows": tuple(learned)})
    monkeypatch.setattr(table, "load_table", lambda: with_more)
    publisher.publish()
    assert needs_of(publisher, "1.2.0") == ["llama.cpp b7000 or later"]
    assert ask(publisher, url, "llama.cpp=b5000").reference == f"{MODEL}:1.0.0@iphone-15"


def needs_of(publisher: Publisher, version: str) -> Sequence[str]:
    document = read_published(publisher.place, publisher.keys).release(MODEL, version)
    assert document is not None
    needed = document.cells["iphone-15"].requires
    assert needed is not None
    return [str(need) for need in needed]


def test_a_server_of_the_catalog_answers_as_a_client_would_choose(publisher: Publisher) -> None:
    from fastapi.testclient import TestClient

    client = TestClient(create_app(publisher.place))
    asked = {"device": "iPhone15,4", "runtime": ["llama.cpp=b4000"]}
    answer = client.get("/resolve", params=asked).json()
    assert answer["release"] == "1.0.0"
    assert "1.2.0: it needs llama.cpp b4792 or later, and the app has b4000" in answer["reasons"]
    refused = client.get("/resolve", params=asked | {"runtime": ["llama.cpp=new"]})
    assert (refused.status_code, refused.json()["problem"]) == (400, "'new' is not the version of a runtime")
