"""A signed catalog: its keys, publication into it, and phones that fetch from it while it changes."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from phipack.__main__ import main
from registry.bundle.folder import open_bundle, verify
from registry.catalog.published_state import published_digests, read_published
from registry.catalog.signing import open_keys
from registry.store.folder import FolderStore
from tests.faults.channels import CELLS, Builder, prepare_releases, tiny
from tests.faults.ground import Ground, Run, names, phipack
from tests.faults.pieces import write_pieces
from tests.faults.stores import case_store, nothing_is_staged

KEYS = Path(".phipack/keys")
CATALOG = Path("catalog")
PHONE = Path("phone/bundle")
_PUBLISH = ("publish", "phi", "--to", str(CATALOG))
_NEW = "--new-catalog"
_RELEASES = ("1.0.0", "1.1.0")


def prepare_keys(_: Ground) -> None:
    """A folder of keys."""
    assert main(["keys", "init"]) == 0


def prepare_publication(ground: Ground, build: Builder = tiny) -> None:
    """1.0.0 is published, a phone has it; production points at 1.1.0."""
    prepare_releases(ground, build)
    prepare_keys(ground)
    assert main([*_PUBLISH, _NEW]) == 0
    assert main(["promote", "phi:1.1.0", "--to", "production"]) == 0
    os.environ["PHIPACK_STATE"] = "phone/state"
    assert phone_fetches(ground) == 0


def prepare_first_publication(ground: Ground) -> None:
    """1.0.0 is published, a phone has it."""
    prepare_releases(ground)
    prepare_keys(ground)
    assert main([*_PUBLISH, _NEW]) == 0
    os.environ["PHIPACK_STATE"] = "phone/state"
    assert phone_fetches(ground) == 0


def prepare_newer_catalog(ground: Ground, build: Builder = tiny) -> None:
    """1.1.0 is published too; the phone has not heard of it."""
    prepare_publication(ground, build)
    assert main([*_PUBLISH]) == 0


def prepare_catalog_with_delta(ground: Ground) -> None:
    """The same, of releases that differ by a little everywhere: a delta leads from one to the other."""
    prepare_newer_catalog(ground, _nudged)
    assert any(b'"from"' in path.read_bytes() for path in CATALOG.rglob("*.json"))


def _nudged(folder: Path, release: str) -> None:
    """A bundle of which each release changes a little everywhere."""
    chance = random.Random(1)
    pieces = [bytearray(chance.randbytes(100_000)) for _ in range(5)]
    for piece in pieces:
        for place in range(0, len(piece), 1000 + int(release[2])):
            piece[place] ^= 1
    write_pieces(folder, [bytes(piece) for piece in pieces])


def phone_fetches(ground: Ground) -> int:
    """Fetch what the catalog has for an iPhone 15 over what the phone has."""
    os.environ["PHIPACK_STATE"] = "phone/state"
    url = f"{ground.site}/{ground.folder.parent.name}/{ground.folder.name}/{CATALOG}"
    words = ("--of", f"phi:production@{CELLS[0]}", "--root", str(KEYS / "1.root.json"), "--install-id", "a phone")
    return phipack("fetch", url, "-o", str(PHONE), "--replace", *words)(ground)


def _phone_has(release: str) -> bool:
    bundle = open_bundle(PHONE)
    verify(bundle)
    return bundle.digest == open_bundle(Path("bundles") / release).digest


def catalog_is_whole(ground: Ground) -> None:
    """Signed by the keys, all that it names is there; the phone gets the old or the new release."""
    place = FolderStore(CATALOG)
    assert read_published(place, open_keys(KEYS)).tag is not None
    for digest in published_digests(place):
        assert place.blob_bytes(digest) is not None
    assert phone_fetches(ground) == 0
    assert any(map(_phone_has, _RELEASES))


def published(ground: Ground) -> None:
    """The phone gets the new release."""
    catalog_is_whole(ground)
    assert _phone_has("1.1.0")


def catalog_is_tidy(_: Ground) -> None:
    """Nothing half-written in the catalog or the store."""
    assert names(CATALOG / "staging") == []
    assert nothing_is_staged(case_store())


def phone_has_one(_: Ground) -> None:
    """The phone has a whole bundle; or between two renames none, and the old one next to it."""
    if PHONE.exists():
        assert any(map(_phone_has, _RELEASES))
        return
    (aside,) = PHONE.parent.glob(".phipack-staging-*-old-bundle")
    verify(open_bundle(aside / PHONE.name))


def phone_has_the_new_one(_: Ground) -> None:
    """The phone has the new release."""
    assert _phone_has("1.1.0")


def phone_is_tidy(_: Ground) -> None:
    """There is nothing else next to the phone's bundle."""
    assert names(PHONE.parent) == ["bundle", "state"]


def keys_are_sound(_: Ground) -> None:
    """The folder opens, every key of the newest root signs, and nobody else can read the private halves."""
    folder = open_keys(KEYS)
    for role in ("root", "targets", "snapshot", "timestamp"):
        folder.sign(role, folder.root)  # type: ignore[arg-type]
    for path in KEYS.glob("*.pem*"):
        assert path.stat().st_mode & 0o077 == 0, path


def _timestamp_version() -> int:
    found = FolderStore(CATALOG).read_document("metadata/timestamp.json")
    assert found is not None
    return int(json.loads(found.content)["signed"]["version"])


def refreshed(ground: Ground) -> None:
    """It is signed again; the phone gets what it had."""
    catalog_is_whole(ground)
    assert _timestamp_version() > 1
    assert _phone_has("1.0.0")


def root_is_renewed(ground: Ground) -> None:
    """There is a later root with the same keys."""
    keys_are_sound(ground)
    roots = open_keys(KEYS).roots
    assert len(roots) > 1
    assert roots[0].signed.keys == roots[-1].signed.keys


def keys_or_none(ground: Ground) -> None:
    """A folder of keys, sound, or none."""
    if KEYS.exists():
        keys_are_sound(ground)


def timestamp_is_rotated(ground: Ground) -> None:
    """There is a later root; it names another key for the timestamp."""
    keys_are_sound(ground)
    roots = open_keys(KEYS).roots
    assert len(roots) > 1
    assert set(roots[0].signed.roles["timestamp"].keyids).isdisjoint(roots[-1].signed.roles["timestamp"].keyids)


def keys_are_tidy(_: Ground) -> None:
    """Nothing half-written among the keys."""
    assert [name for name in names(KEYS) if name.endswith(".new")] == []
    assert [name for name in names(KEYS.parent) if name.startswith(".phipack-staging-")] == []


def make_keys_if_none(ground: Ground) -> int:
    """Keys that were made before their maker died are not to be made twice."""
    return 0 if KEYS.exists() else phipack("keys", "init")(ground)


PUBLISH: Run = phipack(*_PUBLISH)
REFRESH: Run = phipack("publish", "--refresh", "--to", str(CATALOG))
