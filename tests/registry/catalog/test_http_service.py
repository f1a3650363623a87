"""The server of a catalog: what clients and CDNs need of it, and nothing of the store but the catalog."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from devtools.catalogs import Phone, Publisher
from registry.bundle.folder import verify
from registry.catalog.http_service import create_app
from registry.store.protocol import Store, blob_path
from registry.store.s3 import S3Store
from targets.selection import Device
from tests.support.served_app import served_app


@contextmanager
def served(store: Store) -> Iterator[str]:
    """Run the application as `phipack serve` does."""
    with served_app(create_app(store), lifespan="off") as url:
        yield url


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """Has published 1.0.0 from its own store, and released 1.1.0 without publishing it."""
    made = Publisher(tmp_path / "publisher")
    made.place = made.store
    made.release("1.0.0", {"model.gguf": bytes(range(256)) * 4000})
    made.publish()
    made.release("1.1.0")
    return made


@pytest.fixture
def url(publisher: Publisher) -> Iterator[str]:
    """The server's URL."""
    with served(publisher.store) as url:
        yield url


def weights(publisher: Publisher, release: int = 0) -> str:
    manifest = publisher.store.manifest(publisher.registry.rows[release].digest)
    return next(f"sha256:{entry.sha256}" for entry in manifest.files if entry.path == "model.gguf")


def test_a_phone_fetches_from_it(publisher: Publisher, url: str, tmp_path: Path) -> None:
    phone = Phone(tmp_path / "phone", url, publisher.root)
    bundle, release = phone.fetch()
    verify(bundle)
    assert release == "1.0.0"
    publisher.publish()
    assert phone.fetch()[1] == "1.1.0"


def test_it_resolves_as_the_phone_itself_does(publisher: Publisher, url: str, tmp_path: Path) -> None:
    publisher.publish(40)
    for name in ("a", "b", "c", "d", "e"):
        phone = Phone(tmp_path / name, url, publisher.root, name=name)
        bundle, release = phone.fetch(device=Device("iPhone15,4"))
        answer = httpx.get(f"{url}/resolve", params={"device": "iPhone15,4", "install_id": name}).json()
        assert (answer["release"], answer["entry"]["bundle"]) == (release, bundle.digest)
        assert "iPhone15,4 is a device of iphone-15" in answer["reasons"]
        manifest = httpx.get(url + answer["manifest"])
        assert manifest.content == bundle.manifest.to_bytes()


@pytest.mark.parametrize(
    ("params", "status", "problem"),
    [
        ({"device": "nobody"}, 404, "nothing is published for nobody"),
        ({"reference": "phy"}, 404, "no model 'phy'"),
        ({"reference": "phi:not a version"}, 400, "neither a version"),
        ({"ram_bytes": "-1"}, 422, None),
        ({"ram_bytes": "9" * 400}, 422, None),
        ({"os": "iOS " + "1" * 5000}, 422, None),
        ({"os": "iOS " + "1" * 190, "ram_bytes": "99999999999"}, 200, None),
        ({"os": "iOS ²"}, 404, "nothing is published for iOS ²"),
        ({"format": "exe"}, 422, None),
    ],
)
def test_what_it_can_not_resolve_it_says(url: str, params: dict[str, str], status: int, problem: str | None) -> None:
    answer = httpx.get(f"{url}/resolve", params=params)
    assert answer.status_code == status
    if problem is not None:
        assert problem in answer.json()["problem"]
        assert answer.json()["fix"]
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("query", "status", "problem", "fix"),
    [
        (
            "device=nobody",
            404,
            "nothing is published for nobody",
            "describe the device with device=, soc=, or ram_bytes=",
        ),
        ("devcie=iPhone15,4", 400, "/resolve has no parameter 'devcie'", "did you mean 'device'?"),
        ("channel=staging", 400, "/resolve has no parameter 'channel'", "known: device, format"),
        ("device=iPhone15,4&device=nobody", 400, "parameter device is given twice", "keep one device="),
        ("ram_bytes=-1", 422, "ram_bytes: Input should be greater than 0", "correct ram_bytes=: /docs says"),
        ("format=exe", 422, "format: Input should be 'gguf', 'onnx' or 'coreml'", "correct format=: /docs says"),
        ("runtime=onnxruntime", 400, "'onnxruntime' has no version", "write onnxruntime=VERSION"),
    ],
)
def test_what_an_app_asks_wrongly_is_answered_in_its_own_terms(
    url: str, query: str, status: int, problem: str, fix: str
) -> None:
    answer = httpx.get(f"{url}/resolve?{query}")
    assert answer.status_code == status
    assert set(answer.json()) == {"problem", "fix"}
    assert problem in answer.json()["problem"]
    assert fix in answer.json()["fix"]
    assert "--" not in answer.json()["fix"]


def test_paths_and_methods_that_are_none_are_answered_alike(url: str) -> None:
    for method, path, status in (("GET", "resolv", 404), ("POST", "resolve", 405), ("GET", "metadata/x", 404)):
        answer = httpx.request(method, f"{url}/{path}")
        assert (answer.status_code, set(answer.json())) == (status, {"problem", "fix"})
        assert "/openapi.json" in answer.json()["fix"]


def test_what_only_the_publisher_can_fix_is_not_asked_of_an_app(tmp_path: Path) -> None:
    with served(Publisher(tmp_path / "publisher").store) as url:
        answer = httpx.get(f"{url}/resolve")
    assert answer.status_code == 503
    assert answer.json()["fix"] == "try again later; if the error stays, report it to whoever runs this server"


def test_what_changes_is_asked_for_again_and_the_rest_is_kept(publisher: Publisher, url: str) -> None:
    for path, caching in (
        ("metadata/timestamp.json", "no-cache"),
        ("metadata/1.root.json", "public, max-age=31536000, immutable"),
        ("metadata/1.snapshot.json", "public, max-age=31536000, immutable"),
        (blob_path(weights(publisher)), "public, max-age=31536000, immutable"),
        (next(iter(publisher.store.root.glob("targets/phi/releases/*"))).relative_to(publisher.store.root), "public"),
    ):
        answer = httpx.get(f"{url}/{path}")
        assert answer.status_code == 200, path
        assert answer.content == (publisher.store.root / path).read_bytes()
        assert answer.headers["cache-control"].startswith(caching)
        again = httpx.get(f"{url}/{path}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        head = httpx.head(f"{url}/{path}")
        assert (head.content, head.headers["content-length"]) == (b"", str(len(answer.content)))


@pytest.mark.parametrize(
    ("asked", "status", "given"),
    [
        ("bytes=0-99", 206, slice(0, 100)),
        ("bytes=1000-", 206, slice(1000, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=1023990-9999999", 206, slice(1023990, None)),
        ("bytes=9999999-", 416, None),
    ],
)
def test_ranges(publisher: Publisher, url: str, asked: str, status: int, given: slice | None) -> None:
    content = bytes(range(256)) * 4000
    place = f"{url}/{blob_path(weights(publisher))}"
    answer = httpx.get(place, headers={"Range": asked})
    assert answer.status_code == status
    if given is not None:
        assert answer.content == content[given]
        begin, end, _ = given.indices(len(content))
        assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/{len(content)}"
    tag = answer.headers.get("etag", '"x"')
    whole = httpx.get(place, headers={"Range": "bytes=0-9", "If-Range": '"another"'})
    assert (whole.status_code, len(whole.content)) == (200, len(content))
    part = httpx.get(place, headers={"Range": "bytes=0-9", "If-Range": tag})
    assert part.status_code == (206 if given is not None else 200)


def test_only_what_is_published_is_given_out(publisher: Publisher, url: str) -> None:
    unpublished = weights(publisher, release=2)
    assert publisher.store.blob_bytes(unpublished) is not None
    answer = httpx.get(f"{url}/{blob_path(unpublished)}")
    assert answer.status_code == 404
    assert "no published release has blob" in answer.json()["problem"]
    assert httpx.get(f"{url}/{blob_path(weights(publisher))}").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "metadata/../../keys/keys.json",
        "metadata/%2e%2e/%2e%2e/keys/keys.json",
        "metadata/timestamp.json/",
        "metadata/9.root.json",
        "targets/phi/releases/%2e%2e/%2e%2e/x.json",
        "targets//etc/passwd",
        "targets/../releases/" + "ab" * 32 + ".x.json",
        "targets/phi/releases/" + "ab" * 32 + ".." + ".json",
        "targets/phi/releases/" + "ab" * 32 + "." + "a" * 300 + ".json",
        "targets/" + "a" * 300 + "/releases/" + "ab" * 32 + ".1.0.0.json",
        "metadata/" + "9" * 300 + ".root.json",
        "resolve/",
        "metadata%00",
        "targets/phi/releases/%1b%5b2J",
        "blobs/sha256/ab/" + "A" * 64,
        "blobs/sha256/00/" + "ab" * 32,
        "blobs/sha256/ab/../../../documents.lock",
        "documents.lock",
        "staging",
        "blobs",
        "",
    ],
)
def test_nothing_else_is_there(url: str, path: str) -> None:
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
        # As it is: a client's library would put the path in order first.
        connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    status = int(answer.split(b" ", 2)[1])
    assert status == 404, answer
    assert b"elsewhere.example" not in answer
    assert b"server:" not in answer.lower()


def test_what_it_does_is_described(url: str) -> None:
    description = httpx.get(f"{url}/openapi.json").json()
    assert set(description["paths"]) == {
        "/metadata/{name}",
        "/targets/{path}",
        "/blobs/sha256/{folder}/{name}",
        "/resolve",
        "/health",
    }
    operations = [one for path in description["paths"].values() for one in path.values()]
    assert all(one["summary"] for one in operations)
    assert "not signed" in description["info"]["description"]
    json.dumps(description)
    assert httpx.get(f"{url}/health").json() == {"documents": 2, "timestamp": 1}


def test_many_phones_at_once(publisher: Publisher, url: str, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def fetch(number: int) -> str:
        bundle, _ = Phone(tmp_path / str(number), url, publisher.root).fetch()
        verify(bundle)
        return bundle.digest

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(fetch, range(16)))) == 1


def test_from_s3_it_sends_phones_to_presigned_urls(s3_store: S3Store, tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "publisher")
    publisher.place = s3_store  # type: ignore[assignment]
    content = bytes(range(256)) * 80_000
    publisher.release("1.0.0", {"model.gguf": content}, chunked=True)
    publisher.publish()
    with served(s3_store) as url:
        phone = Phone(tmp_path / "phone", url, publisher.root)
        bundle, _ = phone.fetch()
        verify(bundle)
        answer = httpx.get(f"{url}/{blob_path(weights(publisher))}", headers={"Range": "bytes=5-9"})
        assert answer.status_code == 307
        assert "X-Amz-Signature" in answer.headers["location"]
        part = httpx.get(answer.headers["location"], headers={"Range": "bytes=5-9"})
        assert (part.status_code, part.content) == (206, content[5:10])


def test_without_a_catalog_it_says_so(tmp_path: Path) -> None:
    with served(Publisher(tmp_path / "publisher").store) as url:
        answer = httpx.get(f"{url}/health")
        assert answer.status_code == 503
        assert "has no catalog" in answer.json()["problem"]
