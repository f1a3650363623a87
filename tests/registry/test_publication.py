"""A channel becomes a catalog, and a phone gets its bundle from there; whoever changes it on the way is found out."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from devtools.catalogs import Phone, Publisher
from devtools.servers import RangeHandler, serving
from registry.bundle.folder import verify
from registry.catalog.client import CatalogTrust, open_catalog
from registry.catalog.documents import ChannelDocument, parse_document
from registry.catalog.published_state import published_digests, read_published
from registry.catalog.signing import open_keys, renew_root, rotate
from registry.publication import Order, refresh
from registry.store.folder import FolderStore
from registry.store.protocol import Document
from registry.transfer.http import HttpClient
from targets.errors import FetchError, KeysError, PublicationError, RegistryError
from targets.selection import Device

DAY_SECONDS = 86_400


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """Has keys, and nothing published."""
    return Publisher(tmp_path / "publisher")


@pytest.fixture
def url(publisher: Publisher) -> Iterator[str]:
    """The catalog's URL."""
    publisher.place.root.mkdir(parents=True)
    with serving(publisher.place.root, kind=RangeHandler) as url:
        yield url


@pytest.fixture
def phone(tmp_path: Path, publisher: Publisher, url: str) -> Phone:
    """Trusts the publisher's first root."""
    return Phone(tmp_path / "phone", url, publisher.root)


def test_a_phone_gets_what_was_published(publisher: Publisher, phone: Phone) -> None:
    bundle = publisher.release("1.0.0")
    publication = publisher.publish()
    assert [cell.name for cell in publication.cells] == ["iphone-15", "pixel-9"]
    fetched, release = phone.fetch()
    verify(fetched)
    assert (fetched.digest, release) == (bundle.digest, "1.0.0")


def test_what_was_trusted_once_needs_no_root_again(publisher: Publisher, phone: Phone) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    phone.fetch()
    phone.root = None
    assert phone.fetch()[1] == "1.0.0"


def test_without_a_root_nothing_is_trusted(publisher: Publisher, phone: Phone) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    phone.root = None
    with pytest.raises(FetchError, match="no root is trusted") as error:
        phone.fetch()
    assert "--root" in str(error.value)


def test_an_older_release_stays_to_be_had_by_version_and_range(publisher: Publisher, phone: Phone) -> None:
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        publisher.release(version)
        publisher.publish()
    assert phone.fetch()[1] == "2.0.0"
    assert phone.fetch("phi:1.0.0")[1] == "1.0.0"
    assert phone.fetch("phi:^1.0@pixel-9")[1] == "1.1.0"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("phy", "no model 'phy'.*\n.*did you mean 'phi'"),
        ("phi:staging", "phi:staging is not published.*\n.*newest releases: 1.0.0; channels: production"),
        ("phi:3.0.0", "phi:3.0.0 is not published"),
        ("phi:^3", "is not published"),
        ("phi@pixel-8", "no such cell.*\n.*did you mean 'pixel-9'"),
    ],
)
def test_what_is_not_published_is_said(publisher: Publisher, phone: Phone, reference: str, said: str) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    with pytest.raises(FetchError, match=said):
        phone.fetch(reference)


def test_a_device_without_a_bundle_is_reported(publisher: Publisher, phone: Phone) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    with pytest.raises(FetchError, match="nothing is published for iPhone99,9"):
        phone.fetch(device=Device("iPhone99,9"))


def test_a_sibling_with_the_same_soc_is_known_by_its_identifier(publisher: Publisher, phone: Phone) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    assert phone.fetch(device=Device("iPhone15,2"))[1] == "1.0.0"  # an iPhone 14 Pro: A16 too


def test_a_rollout_reaches_a_share_and_widening_takes_nothing_back(
    publisher: Publisher, url: str, tmp_path: Path
) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    phones = [Phone(tmp_path / f"phone-{n}", url, publisher.root, name=f"phone {n}") for n in range(12)]
    publisher.release("1.1.0")
    publisher.publish(30)
    first = [phone.fetch()[1] for phone in phones]
    assert 0 < first.count("1.1.0") < 12
    publisher.publish(70)
    second = [phone.fetch()[1] for phone in phones]
    assert all(now >= before for now, before in zip(second, first, strict=True))
    publisher.publish()
    assert {phone.fetch()[1] for phone in phones} == {"1.1.0"}


def test_a_release_that_is_not_for_this_phone_yet(publisher: Publisher, phone: Phone) -> None:
    publisher.release("1.0.0")
    publisher.publish(0.01)
    with pytest.raises(FetchError, match="not among the first"):
        phone.fetch()


def test_a_rollback_reaches_all(publisher: Publisher, phone: Phone) -> None:
    for version in ("1.0.0", "1.1.0"):
        publisher.release(version)
        publisher.publish()
    assert phone.fetch()[1] == "1.1.0"
    publisher.point_back("1.0.0")
    publisher.publish()
    assert phone.fetch()[1] == "1.0.0"


def test_blobs_are_copied_once(publisher: Publisher) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    before = {blob.digest: (publisher.place.root / "blobs").stat().st_mtime for blob in publisher.place.blobs()}
    publisher.publish()
    assert {blob.digest for blob in publisher.place.blobs()} == before.keys()
    assert published_digests(publisher.place) == before.keys()


def test_no_key_is_in_the_catalog_or_the_store(publisher: Publisher) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    secrets = [path.read_bytes() for path in (publisher.folder / "keys").glob("*.pem")]
    assert len(secrets) == 4
    for path in [*publisher.place.root.rglob("*"), *publisher.store.root.rglob("*")]:
        assert path.is_dir() or not any(secret in path.read_bytes() for secret in secrets)


def test_a_release_does_not_change(publisher: Publisher) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    publisher.registry.rows.clear()
    shutil.rmtree(publisher.folder / "bundles")
    publisher.release("1.0.0", {"model.gguf": b"another"})
    with pytest.raises(PublicationError, match="published already") as error:
        publisher.publish()
    assert "another version" in str(error.value)


def test_an_empty_channel_and_an_unknown_target_are_refused(publisher: Publisher) -> None:
    with pytest.raises(RegistryError, match="no model 'phi'"):
        publisher.publish()
    publisher.release("1.0.0", cells={"mine": "my-phone"})
    with pytest.raises(PublicationError, match="target 'my-phone' is unknown"):
        publisher.publish()
    assert not (publisher.place.root / "metadata").exists()


def serves_an_older_catalog(place: Path, old: Path) -> None:
    shutil.copytree(old / "metadata", place / "metadata", dirs_exist_ok=True)
    newest = max(int(path.name.split(".")[0]) for path in (place / "metadata").glob("*.snapshot.json"))
    (place / "metadata" / f"{newest}.snapshot.json").unlink()


def puts_an_old_snapshot_under_the_new_timestamp(place: Path, old: Path) -> None:
    timestamp = json.loads((place / "metadata/timestamp.json").read_bytes())
    version = timestamp["signed"]["meta"]["snapshot.json"]["version"]
    newest = max((old / "metadata").glob("*.snapshot.json"))
    shutil.copy(newest, place / "metadata" / f"{version}.snapshot.json")


def changes_a_signed_document(place: Path, old: Path) -> None:
    for path in place.glob("targets/phi/channels/*.json"):
        path.write_bytes(path.read_bytes().replace(b"1.1.0", b"1.0.0"))


def changes_the_timestamp(place: Path, old: Path) -> None:
    path = place / "metadata/timestamp.json"
    raw = path.read_bytes()
    assert b'"version":2' in raw
    path.write_bytes(raw.replace(b'"version":2', b'"version":9'))


def changes_a_manifest(place: Path, old: Path) -> None:
    for path in place.glob("blobs/sha256/??/*"):
        if path.read_bytes().startswith(b"{"):
            path.chmod(0o644)
            path.write_bytes(path.read_bytes().replace(b"gguf", b"onnx"))


def changes_a_blob(place: Path, old: Path) -> None:
    for path in place.glob("blobs/sha256/??/*"):
        if not path.read_bytes().startswith(b"{"):
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1] + b"!")


def makes_the_targets_endless(place: Path, old: Path) -> None:
    for path in place.glob("metadata/*.targets.json"):
        path.write_bytes(path.read_bytes() + b" " * 6_000_000)


@pytest.mark.parametrize(
    "attack",
    [
        serves_an_older_catalog,
        puts_an_old_snapshot_under_the_new_timestamp,
        changes_a_signed_document,
        changes_the_timestamp,
        changes_a_manifest,
        changes_a_blob,
        makes_the_targets_endless,
    ],
)
def test_whoever_serves_the_catalog_can_not_change_it(
    publisher: Publisher, phone: Phone, tmp_path: Path, attack: Callable[[Path, Path], None]
) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    shutil.copytree(publisher.place.root, tmp_path / "old")
    before = phone.fetch()[0]
    publisher.release("1.1.0")
    publisher.publish()
    if attack is serves_an_older_catalog:
        phone.fetch()  # it has seen the newer one
        before = phone.fetch()[0]
    good = tmp_path / "good"
    shutil.copytree(publisher.place.root, good)
    attack(publisher.place.root, tmp_path / "old")
    with pytest.raises(FetchError) as error:
        phone.fetch()
    assert "fix:" in str(error.value)
    there = phone.folder / "bundle"
    verify(type(before)(there, before.manifest))  # what was there is untouched
    shutil.rmtree(publisher.place.root)
    shutil.copytree(good, publisher.place.root)
    assert phone.fetch()[1] == "1.1.0"


def test_another_publishers_catalog_is_not_trusted(publisher: Publisher, phone: Phone, tmp_path: Path) -> None:
    stranger = Publisher(tmp_path / "stranger")
    stranger.release("9.0.0")
    stranger.publish()
    publisher.release("1.0.0")
    publisher.publish()
    phone.fetch()
    shutil.rmtree(publisher.place.root)
    shutil.copytree(stranger.place.root, publisher.place.root)
    with pytest.raises(FetchError, match=r"can't be trusted|rollback or mix-and-match detected"):
        phone.fetch()


def test_a_damaged_file_of_the_trusted_root_is_named(publisher: Publisher, phone: Phone, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    phone.fetch()
    phone.root = tmp_path / "1.root.json"
    phone.root.write_bytes(publisher.root.read_bytes().replace(b"root", b"r00t"))
    with pytest.raises(FetchError, match=rf"root file {phone.root} is damaged") as error:
        phone.fetch()
    assert "publisher" in str(error.value.fix)
    phone.root = None
    (kept,) = (phone.folder / "state" / "catalogs").glob("*/metadata/root.json")
    kept.write_bytes(b"{}")
    with pytest.raises(FetchError, match=rf"{kept}, is damaged") as error:
        phone.fetch()
    assert "--root" in str(error.value.fix)
    phone.root = publisher.root
    assert phone.fetch()[1] == "1.0.0"


FETCH_LATER = """
import datetime, sys, time
from pathlib import Path

shift = datetime.timedelta(days=float(sys.argv[1]))

class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + shift

datetime.datetime = Clock
from registry.catalog.client import CatalogTrust, open_catalog
from registry.transfer.http import HttpClient
from targets.errors import FetchError
try:
    with HttpClient() as client:
        trust = CatalogTrust(Path(sys.argv[3]), Path(sys.argv[4]))
        print(sorted(open_catalog(sys.argv[2], client, trust).paths))
except FetchError as error:
    print(error)
"""


def seen_with_clock(days: float, publisher: Publisher, phone: Phone) -> str:
    command = [
        sys.executable,
        "-c",
        FETCH_LATER,
        str(days),
        phone.url,
        str(publisher.root),
        str(phone.folder / "state"),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_clock_that_is_a_day_off_does_no_harm_and_a_frozen_catalog_expires(
    publisher: Publisher, phone: Phone
) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    for days in (-1, 0, 1):
        assert "phi/releases/1.0.0.json" in seen_with_clock(days, publisher, phone)
    said = seen_with_clock(31, publisher, phone)
    assert "has expired" in said
    assert "check this machine's clock" in said
    refresh(publisher.place, publisher.keys)
    assert "phi/releases/1.0.0.json" in seen_with_clock(1, publisher, phone)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_keys_are_rotated_under_phones_that_know_the_first_root_only(
    publisher: Publisher, phone: Phone, role: str
) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    phone.fetch()
    publisher.keys = rotate(publisher.keys, role)  # type: ignore[arg-type]
    publisher.release("1.1.0")
    publisher.publish()
    assert phone.fetch()[1] == "1.1.0"
    new_phone = Phone(phone.folder.parent / "new phone", phone.url, publisher.root)
    assert new_phone.fetch()[1] == "1.1.0"


def test_what_a_retired_key_signs_is_refused(publisher: Publisher, phone: Phone, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    shutil.copytree(publisher.folder / "keys", tmp_path / "old keys")
    shutil.copytree(publisher.place.root, tmp_path / "old place")
    old_keys, old_place = open_keys(tmp_path / "old keys"), FolderStore(tmp_path / "old place")
    publisher.keys = rotate(publisher.keys, "targets")
    publisher.publish()
    phone.fetch()
    with pytest.raises(KeysError, match="has root 2"):
        refresh(publisher.place, open_keys(tmp_path / "old keys"))
    for _ in range(3):
        refresh(old_place, old_keys)  # newer by its numbers
    shutil.copytree(old_place.root / "metadata", publisher.place.root / "metadata", dirs_exist_ok=True)
    with pytest.raises(FetchError, match="can't be trusted"):
        phone.fetch()


def test_a_publisher_signs_nothing_that_somebody_slipped_in(publisher: Publisher, tmp_path: Path) -> None:
    stranger = Publisher(tmp_path / "stranger")
    stranger.release("9.0.0")
    stranger.publish()
    shutil.copytree(stranger.place.root, publisher.place.root)
    publisher.release("1.0.0")
    with pytest.raises(PublicationError, match="not signed by the timestamp keys"):
        publisher.publish()


def test_publishers_at_once_lose_nothing(publisher: Publisher) -> None:
    bundles = {}
    for number in range(4):
        bundles[number] = publisher.release(f"1.{number}.0", cells={f"cell-{number}": "iphone-15"})

    def run(number: int) -> None:
        from devtools.catalogs import Rows
        from registry.publication import publish
        from targets.devices import load_targets

        mine = Rows([row for row in publisher.registry.rows if row.cell == f"cell-{number}"])
        order = Order("phi", f"channel-{number}")
        mine.rows = [type(row)(**{**vars(row), "channels": (f"channel-{number}",)}) for row in mine.rows]
        publish(mine, order, FolderStore(publisher.place.root), publisher.keys, targets=load_targets())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    published = read_published(publisher.place, publisher.keys)
    assert sorted(published.files) == sorted(
        [f"phi/channels/channel-{n}.json" for n in range(4)] + [f"phi/releases/1.{n}.0.json" for n in range(4)]
    )


def test_the_catalog_is_plain_tuf(publisher: Publisher, phone: Phone, tmp_path: Path) -> None:
    """python-tuf's own client, with its own downloader, reads the documents too."""
    from tuf.ngclient import Updater

    publisher.release("1.0.0")
    publisher.publish()
    updater = Updater(
        str(tmp_path / "tuf"),
        f"{phone.url}/metadata/",
        str(tmp_path),
        f"{phone.url}/targets/",
        bootstrap=publisher.root.read_bytes(),
    )
    info = updater.get_targetinfo("phi/releases/1.0.0.json")
    assert info is not None
    document = json.loads(Path(updater.download_target(info)).read_bytes())
    assert document["cells"]["iphone-15"]["format"] == "gguf"


def test_a_second_look_downloads_the_timestamp_alone(publisher: Publisher, tmp_path: Path) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    asked: list[str] = []
    with serving(publisher.place.root, asked=asked, kind=RangeHandler) as url:
        for _ in range(2):
            asked.clear()
            with HttpClient() as client:
                catalog = open_catalog(url, client, CatalogTrust(publisher.root, tmp_path / "state"))
                assert catalog.channel("phi", "production") is not None
    assert asked == ["/metadata/2.root.json", "/metadata/timestamp.json"]


def test_phones_of_the_release_before_take_a_delta(publisher: Publisher, phone: Phone) -> None:
    before = b"".join(hashlib.sha256(number.to_bytes(4)).digest() for number in range(60_000))
    changed = bytearray(before)
    changed[::500] = bytes((one + 1) % 256 for one in before[::500])
    order = Order("phi", "production", deltas=True)
    for version, content in (("1.0.0", before), ("1.1.0", bytes(changed))):
        publisher.release(version, {"model.gguf": content}, chunked=True)
        publication = publisher.publish(order=order)
        if version == "1.0.0":
            phone.fetch()
    assert [cell.deltas for cell in publication.cells] == [1, 1]
    asked: list[str] = []
    with serving(publisher.place.root, asked=asked, kind=RangeHandler) as url:
        phone.url = url
        bundle, release = phone.fetch()
    verify(bundle)
    assert release == "1.1.0"
    weights = next(entry for entry in bundle.manifest.files if entry.path == "model.gguf")
    assert not any(weights.sha256 in path for path in asked)
    assert (bundle.path / "model.gguf").read_bytes() == bytes(changed)
    assert {blob.digest for blob in publisher.place.blobs()} == published_digests(publisher.place)


def test_a_later_publishers_keys_are_ignored_and_given_on() -> None:
    raw = b'{"schema":"phipack.channel/1","model":"phi","channel":"production","since":"2027",'
    raw += b'"cells":{"iphone-15":[{"release":"1.0.0","basis_points":10000,"until":"2028"}]}}'
    document = parse_document(ChannelDocument, raw)
    assert json.loads(document.to_bytes()) == json.loads(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"[]",
        b'{"schema":"phipack.channel/2","model":"phi","channel":"production","cells":{}}',
        b'{"schema":"phipack.channel/1","model":"phi","channel":"production","cells":{"a":[]}}',
        b'{"schema":"phipack.channel/1","model":"phi","cells":{"a":[{"release":"1.0.0","basis_points":10001}]}}',
    ],
)
def test_a_document_of_another_form_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_document(ChannelDocument, raw)


def expire_root(publisher: Publisher, days: int) -> None:
    """Sign the root again, to expire so many days from now."""
    publisher.keys.keys.expiry_days["root"] = days
    publisher.keys = renew_root(publisher.keys)
    publisher.keys.keys.expiry_days["root"] = 365


@pytest.mark.parametrize("days", [0, -10])
def test_nothing_is_published_with_an_expired_root(publisher: Publisher, phone: Phone, days: int) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    expire_root(publisher, days)
    before = publisher.place.read_document("metadata/timestamp.json")
    for act in (publisher.publish, lambda: refresh(publisher.place, publisher.keys)):
        with pytest.raises(KeysError, match=r"the root in .* expired on") as caught:
            act()
        assert "phipack keys show --renew" in caught.value.fix
    assert publisher.place.read_document("metadata/timestamp.json") == before
    publisher.keys = renew_root(publisher.keys)
    publisher.publish()
    assert phone.fetch()[1] == "1.0.0"


def test_a_root_that_will_expire_is_warned_of_from_a_quarter_of_its_term_on(publisher: Publisher) -> None:
    publisher.release("1.0.0")
    for days, warned in ((92, False), (91, True), (5, True)):
        expire_root(publisher, days)
        notices: list[str] = []
        publisher.publish()
        refresh(publisher.place, publisher.keys, on_progress=lambda event, into=notices: into.append(event.text))
        assert bool(notices) == warned
        assert all("the root expires on" in text and "keys show --renew" in text for text in notices)


def test_a_phone_that_finds_an_expired_root_names_the_remedy_that_helps(publisher: Publisher, phone: Phone) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    expire_root(publisher, -1)
    content = (publisher.folder / "keys" / "2.root.json").read_bytes()
    assert publisher.place.write_document("metadata/2.root.json", content, replacing=None)
    with pytest.raises(FetchError, match="has expired") as caught:
        phone.fetch()
    assert "phipack keys show --renew, then phipack publish --refresh" in caught.value.fix


def test_what_the_clients_own_code_refuses_is_not_reported_as_published(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written, and changed before it is looked at again: as by a cache or another tool in front of the store."""
    publisher.release("1.0.0")
    real = FolderStore.read_document

    def changed(self: FolderStore, name: str) -> Document | None:
        found = real(self, name)
        return Document(b"<html>", found.tag) if found is not None and name == "metadata/timestamp.json" else found

    monkeypatch.setattr(FolderStore, "read_document", changed)
    with pytest.raises(PublicationError, match="it was written, and no client accepts it"):
        publisher.publish()
