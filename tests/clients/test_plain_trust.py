"""The sample client's trust: what the catalog's keys did not sign, or signed too long ago, is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner

from registry.signing import create_keys, rotate
from tests.clients.conftest import Plain
from tests.clients.plain_trust import Refused, canonical, signed_by
from tests.registry.catalogs import Publisher
from tests.registry.servers import answering, on, serving, times


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


def test_an_expired_catalog_is_refused(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "publisher")
    shutil.rmtree(publisher.folder / "keys")
    publisher.keys = create_keys(publisher.folder / "keys", {}, {"timestamp": 0})
    publisher.release("1.0.0")
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
