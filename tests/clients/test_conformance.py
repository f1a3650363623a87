"""The scenarios of tuf-conformance 2.4.0 that one of our clients once failed, for both of them.

The whole suite is the TUF project's; `conformance.py` is the command that it runs, and CI runs it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from devtools.catalogs import Publisher
from registry.catalog.signing import rotate
from tests.clients import conformance
from tests.clients.plain_trust import Json
from tests.support.forged_metadata import forge, signed

CHANNEL = "phi/channels/production.json"


class Client:
    """One of the clients, as the suite calls it."""

    def __init__(self, kind: str, folder: Path, url: str, root: Path) -> None:
        self._kind, self._url, self.metadata, self._out = kind, url, folder / "metadata", folder / "out"
        for path in (self.metadata, self._out):
            path.mkdir(parents=True)
        assert self._run("init", root) == 0

    def refresh(self) -> bool:
        return self._run("refresh") == 0

    def download(self, name: str) -> bytes | None:
        if self._run("--target-name", name, "--target-dir", self._out, "download") != 0:
            return None
        return (self._out / name.replace("/", "%2F")).read_bytes()

    def version(self, role: str) -> int:
        return int(json.loads((self.metadata / f"{role}.json").read_bytes())["signed"]["version"])

    def _run(self, *arguments: str | Path) -> int:
        options = ["--metadata-dir", self.metadata, "--metadata-url", f"{self._url}/metadata/"]
        return conformance.main([self._kind, *map(str, [*options, *arguments])])


@pytest.fixture(params=["product", "sample"])
def new(
    request: pytest.FixtureRequest, publisher: Publisher, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], Client]:
    """Returns a new client on a root; the publisher has published 1.0.0 and waits are short."""
    monkeypatch.setattr("tests.clients.plain_trust.time.sleep", lambda _: None)
    monkeypatch.setattr("registry.transfer.http.HttpClient.wait", lambda *_: False)
    publisher.release("1.0.0")
    publisher.publish()
    return lambda root: Client(request.param, tmp_path / "client", url, root)


New = Callable[[Path], Client]


def test_a_root_that_its_own_keys_did_not_sign_is_refused_unasked(
    new: New, publisher: Publisher, asked: list[str], tmp_path: Path
) -> None:
    document = json.loads(publisher.root.read_bytes())
    document["signatures"][0]["sig"] = "ab" * 64
    root = tmp_path / "root.json"
    root.write_text(json.dumps(document))
    asked.clear()
    assert not new(root).refresh()
    assert asked == []


def test_of_two_timestamps_of_one_version_the_first_counts(new: New, publisher: Publisher, asked: list[str]) -> None:
    client = new(publisher.root)
    assert client.refresh()
    forge(publisher, "timestamp", lambda one: one.update(version=1, meta={"snapshot.json": {"version": 100}}))
    asked.clear()
    assert client.refresh()
    assert asked == ["/metadata/2.root.json", "/metadata/timestamp.json"]
    content = json.loads((client.metadata / "timestamp.json").read_bytes())["signed"]
    assert content["meta"]["snapshot.json"]["version"] == 1


@pytest.mark.parametrize("role", ["timestamp", "root"])
def test_two_signatures_of_one_key_are_refused(new: New, publisher: Publisher, role: str) -> None:
    client = new(publisher.root)
    path = publisher.place.root / "metadata" / ("timestamp.json" if role == "timestamp" else "2.root.json")
    if role == "root":
        publisher.keys = rotate(publisher.keys, "timestamp")
        publisher.publish()
    document = json.loads(path.read_bytes())
    document["signatures"].append(document["signatures"][0])
    path.write_text(json.dumps(document))
    assert not client.refresh()


def test_versions_that_were_run_up_are_left_behind_by_a_new_snapshot_key(new: New, publisher: Publisher) -> None:
    client = new(publisher.root)
    assert client.refresh()
    run_up(client, publisher)
    assert not client.refresh()  # a rollback, as long as the keys are the same
    publisher.keys = rotate(publisher.keys, "snapshot")
    publisher.publish()
    assert client.refresh()
    assert client.version("targets") == 3


def run_up(client: Client, publisher: Publisher) -> None:
    """Let a client trust targets of version 100, which somebody signed who had the keys for a while."""
    content: Json = json.loads((client.metadata / "targets.json").read_bytes())["signed"]
    targets = signed(publisher, "targets", content | {"version": 100})
    named = {"version": 100, "hashes": {"sha256": hashlib.sha256(targets).hexdigest()}, "length": len(targets)}
    content = json.loads((client.metadata / "snapshot.json").read_bytes())["signed"]
    (client.metadata / "targets.json").write_bytes(targets)
    snapshot = signed(publisher, "snapshot", content | {"meta": {"targets.json": named}})
    (client.metadata / "snapshot.json").write_bytes(snapshot)
    publisher.release("1.1.0")
    publisher.publish()


@pytest.mark.parametrize("algorithms", [["sha256"], ["sha512"], ["sha512", "sha256"]], ids=" ".join)
def test_a_document_is_read_by_every_hash_that_the_page_names(
    new: New, publisher: Publisher, algorithms: list[str]
) -> None:
    content = list_by(publisher, {name: name for name in algorithms})
    assert new(publisher.root).download(CHANNEL) == content


@pytest.mark.parametrize("hashes", [{"sha256": "sha256", "blake9": "sha256"}, {"sha512": "sha256"}, {"x": "sha512"}])
def test_one_hash_that_does_not_hold_or_is_unknown_is_enough_to_refuse(
    new: New, publisher: Publisher, hashes: dict[str, str]
) -> None:
    list_by(publisher, hashes)
    assert new(publisher.root).download(CHANNEL) is None


def list_by(publisher: Publisher, hashes: dict[str, str]) -> bytes:
    """List the channel by hashes: names, and the algorithms by which they are made. Return the channel."""
    path = next(publisher.place.root.glob("targets/phi/channels/*.production.json"))
    content = path.read_bytes()
    made = {name: hashlib.new(algorithm, content).hexdigest() for name, algorithm in hashes.items()}
    for value in made.values():
        if not (copy := path.with_name(f"{value}.production.json")).exists():
            shutil.copy(path, copy)
    forge(publisher, "targets", lambda one: one["targets"][CHANNEL].update(hashes=made))
    return content


def test_a_document_is_downloaded_once(new: New, publisher: Publisher, asked: list[str]) -> None:
    client = new(publisher.root)
    content = client.download(CHANNEL)
    assert content is not None
    asked.clear()
    assert client.download(CHANNEL) == content
    assert [path for path in asked if "/targets/" in path] == []
    assert client.download("phi/channels/nothing.json") is None
