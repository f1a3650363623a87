"""The sample client's trust: what the catalog's keys did not sign, or signed too long ago, is refused."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import timedelta
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner

from devtools.catalogs import Publisher
from devtools.servers import answering, on, serving, times
from registry.catalog.signing import KeyFolder, Role, rotate
from targets.errors import PublicationError
from tests.clients.plain_trust import Refused, canonical, signed_by
from tests.support.forged_metadata import forge
from tests.support.plain_installs import Plain

CHANNEL = "phi/channels/production.json"
PAST = "2020-01-01T00:00:00Z"


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_signatures_of_every_scheme_of_the_page_are_verified(kind: str) -> None:
    signer: CryptoSigner = getattr(CryptoSigner, f"generate_{kind}")()
    signature = bytes.fromhex(signer.sign(b"message").signature)
    key = signer.public_key.to_dict()
    assert signed_by(key, signature, b"message")
    assert not signed_by(key, signature, b"another")
    assert not signed_by(key, b"", b"message")
    assert not signed_by(key | {"scheme": "another"}, signature, b"message")


def test_what_is_signed_is_the_canonical_json() -> None:
    content = {
        "b": [1, -2, True, None, []],
        "a": {"é": 'quote " backslash \\ feed \n', "E": ""},
        "\U0001f600": "\uffff",
    }
    assert canonical(content) == encode_canonical(content).encode()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_keys_are_rotated_under_it(publisher: Publisher, url: str, tmp_path: Path, role: str) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    Plain(tmp_path / "plain", url, publisher.root).fetch()
    publisher.keys = rotate(publisher.keys, role)  # type: ignore[arg-type]
    publisher.release("1.1.0")
    publisher.publish()
    for name in ("plain", "new"):
        assert Plain(tmp_path / name, url, publisher.root).fetch()[1] == "1.1.0"


def test_a_rotation_under_way_is_met_by_a_second_try(publisher: Publisher, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    before = (publisher.place.root / "metadata" / "timestamp.json").read_bytes()
    publisher.keys = rotate(publisher.keys, "timestamp")
    publisher.publish()
    late = times(1, on("/metadata/timestamp.json", answering(200, {"Content-Length": str(len(before))}, before)))
    with serving(publisher.place.root, late) as url:
        assert Plain(tmp_path / "plain", url, publisher.root).fetch()[1] == "1.0.0"


def test_an_older_catalog_is_refused(publisher: Publisher, url: str, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    timestamp = publisher.place.root / "metadata" / "timestamp.json"
    older = timestamp.read_bytes()
    publisher.release("1.1.0")
    publisher.publish()
    plain = Plain(tmp_path / "plain", url, publisher.root)
    plain.fetch()
    timestamp.write_bytes(older)
    with pytest.raises(Refused, match="older than what was trusted"):
        plain.fetch()


def test_an_expired_catalog_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Publisher(tmp_path / "publisher")
    expiry = KeyFolder.expiry
    monkeypatch.setattr(
        KeyFolder,
        "expiry",
        lambda keys, role, now: expiry(keys, role, now - timedelta(days=31) if role == "timestamp" else now),
    )
    publisher.release("1.0.0")
    with pytest.raises(PublicationError, match=r"it was written, and no client accepts it: .* has expired"):
        publisher.publish()
    with serving(publisher.place.root) as url, pytest.raises(Refused, match="timestamp expired"):
        Plain(tmp_path / "plain", url, publisher.root).fetch()


def test_another_root_is_refused(publisher: Publisher, url: str, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    stranger = Publisher(tmp_path / "stranger")
    with pytest.raises(Refused, match="0 good signatures of 1"):
        Plain(tmp_path / "plain", url, stranger.root).fetch()


@pytest.mark.parametrize("folder", ["channels", "releases"])
def test_a_changed_document_is_refused(publisher: Publisher, url: str, tmp_path: Path, folder: str) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    changed = next(publisher.place.root.glob(f"targets/phi/{folder}/*.json"))
    changed.write_bytes(changed.read_bytes().replace(b"1.0.0", b"1.0.1"))
    with pytest.raises(Refused, match="was changed"):
        Plain(tmp_path / "plain", url, publisher.root).fetch()


def test_a_busy_server_is_asked_again(publisher: Publisher, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    busy = times(2, on("/metadata/timestamp.json", answering(503, {"Retry-After": "0"})))
    with serving(publisher.place.root, busy) as url:
        assert Plain(tmp_path / "plain", url, publisher.root).fetch()[1] == "1.0.0"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", b"nonsense\r\n\r\n", b""])
def test_an_answer_that_breaks_off_or_is_none_is_asked_for_again(
    publisher: Publisher, tmp_path: Path, answer: bytes
) -> None:
    def respond(handler: SimpleHTTPRequestHandler) -> None:
        handler.wfile.write(answer)
        handler.close_connection = True

    publisher.release("1.0.0")
    publisher.publish()
    with serving(publisher.place.root, times(1, on("/metadata/timestamp.json", respond))) as url:
        assert Plain(tmp_path / "plain", url, publisher.root).fetch()[1] == "1.0.0"


def test_metadata_beyond_its_limit_is_refused(publisher: Publisher, url: str, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    timestamp = publisher.place.root / "metadata" / "timestamp.json"
    timestamp.write_bytes(timestamp.read_bytes() + b" " * 16_384)
    with pytest.raises(Refused, match="longer than 16384 bytes"):
        Plain(tmp_path / "plain", url, publisher.root).fetch()


@pytest.mark.parametrize("signer", [0, 1])
def test_a_root_that_only_one_of_both_roots_signs_is_refused(
    publisher: Publisher, url: str, tmp_path: Path, signer: int
) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    publisher.keys = rotate(publisher.keys, "root")
    publisher.publish()
    path = publisher.place.root / "metadata" / "2.root.json"
    document = json.loads(path.read_bytes())
    key = publisher.keys.roots[signer].signed.roles["root"].keyids[0]
    document["signatures"] = [one for one in document["signatures"] if one["keyid"] == key]
    assert len(document["signatures"]) == 1
    path.write_text(json.dumps(document))
    with pytest.raises(Refused, match="root has 0 good signatures of 1"):
        Plain(tmp_path / "plain", url, publisher.root).fetch()


def test_a_document_of_a_later_schema_is_refused(publisher: Publisher, url: str, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    channel = next(publisher.place.root.glob("targets/phi/channels/*.json"))
    data = channel.read_bytes().replace(b"phipack.channel/1", b"phipack.channel/2")
    digest = hashlib.sha256(data).hexdigest()
    (channel.parent / f"{digest}.production.json").write_bytes(data)
    forge(publisher, "targets", lambda signed: signed["targets"][CHANNEL]["hashes"].update(sha256=digest))
    with pytest.raises(Refused, match=r"has schema phipack\.channel/2: update the app"):
        Plain(tmp_path / "plain", url, publisher.root).fetch()


FORGERIES: list[tuple[Role, dict[str, Any], str]] = [
    ("timestamp", {"_type": "snapshot"}, "timestamp.json is of type snapshot"),
    ("timestamp", {"version": 1}, "timestamp is older than what was trusted last"),
    ("timestamp", {"meta": {"snapshot.json": {"version": 1}}}, "timestamp names an older snapshot.json"),
    ("timestamp", {"expires": PAST}, "timestamp expired"),
    ("snapshot", {"version": 1}, "2.snapshot.json is another version"),
    ("snapshot", {"meta": {"targets.json": {"version": 1}}}, "snapshot names an older targets.json"),
    ("snapshot", {"expires": PAST}, "snapshot expired"),
    ("targets", {"version": 1}, "2.targets.json is another version"),
    ("targets", {"expires": PAST}, "targets expired"),
    ("root", {"_type": "snapshot"}, "root is of another type"),
    ("root", {"version": 3}, "2.root.json is another version"),
    ("root", {"expires": PAST}, "root expired"),
]


@pytest.mark.parametrize(
    ("role", "changes", "why"), FORGERIES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_the_keys_signed_and_the_specification_forbids_is_refused(
    publisher: Publisher, url: str, tmp_path: Path, role: Role, changes: dict[str, Any], why: str
) -> None:
    for version in ("1.0.0", "1.1.0"):
        publisher.release(version)
        publisher.publish()
    plain = Plain(tmp_path / "plain", url, publisher.root)
    plain.fetch()
    forge(publisher, role, lambda signed: signed.update(changes))
    with pytest.raises(Refused, match=re.escape(why)):
        plain.fetch()
