"""A channel becomes a catalog, and a phone gets its bundle from there."""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from devtools.catalogs import Phone, Publisher
from devtools.servers import RangeHandler, serving
from registry.bundle.folder import verify
from registry.catalog.client import CatalogTrust, open_catalog
from registry.catalog.documents import ChannelDocument, parse_document
from registry.catalog.published_state import published_digests, read_published
from registry.catalog.signing import KeyFolder
from registry.publication import Order, refresh
from registry.store.folder import FolderStore
from registry.store.s3 import S3Store
from registry.transfer.http import HttpClient
from targets.errors import FetchError, MalformedReferenceError, PublicationError, RegistryError, StoreError
from targets.progress import Event, Notice
from targets.selection import Device


def test_a_phone_gets_what_was_published(publisher: Publisher, phone: Phone) -> None:
    bundle = publisher.release("1.0.0")
    publication = publisher.publish()
    assert [cell.name for cell in publication.cells] == ["iphone-15", "pixel-9"]
    fetched, release = phone.fetch()
    verify(fetched)
    assert (fetched.digest, release) == (bundle.digest, "1.0.0")


def test_a_neighbour_of_a_misspelt_place_is_named(publisher: Publisher) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    publisher.place = FolderStore(publisher.place.root.with_name(f"{publisher.place.root.name}g"))
    with pytest.raises(PublicationError) as caught:
        publisher.publish(order=Order("phi", "production"))
    assert caught.value.fix.startswith("did you mean '")
    assert "--new-catalog" in caught.value.fix


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_misspelt_place_is_refused_and_stays_empty(
    publisher: Publisher, kind: str, request: pytest.FixtureRequest
) -> None:
    """In a bucket that has other things, too."""
    publisher.release("1.0.0")
    if kind == "s3":
        there: S3Store = request.getfixturevalue("s3_store")
        publisher.place = S3Store(there.bucket, f"{there.prefix}/catalog")  # type: ignore[assignment]
        assert publisher.publish().new_catalog
        publisher.place = S3Store(there.bucket, f"{there.prefix}/katalog")  # type: ignore[assignment]
    order = Order("phi", "production")
    with pytest.raises(PublicationError) as caught:
        publisher.publish(order=order)
    assert caught.value.problem == f"{publisher.place.uri} has no catalog; nothing was published"
    assert "--new-catalog" in caught.value.fix
    assert not publisher.place.exists()
    assert publisher.publish().new_catalog
    assert not publisher.publish(order=order).new_catalog


def test_the_bundles_own_store_needs_no_word_that_a_catalog_is_new(publisher: Publisher) -> None:
    publisher.release("1.0.0")
    publisher.place = publisher.store
    assert publisher.publish(order=Order("phi", "production")).new_catalog


@pytest.mark.parametrize("channel", ["", "Production"])
def test_a_channel_without_a_name_is_not_published_as_production(publisher: Publisher, channel: str) -> None:
    """As --channel "$CHANNEL" asks for where the variable is not set."""
    publisher.release("1.0.0")
    with pytest.raises(MalformedReferenceError, match="not a valid name of a channel"):
        publisher.publish(order=Order("phi", channel, new_catalog=True))
    assert not publisher.place.exists()


def test_a_clock_that_is_behind_is_noticed(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it signs may have expired for phones already."""
    publisher.release("1.0.0")
    publisher.publish()
    said: list[Event] = []
    refresh(publisher.place, publisher.keys, on_progress=said.append)
    assert said == []
    real = KeyFolder.expiry
    monkeypatch.setattr(KeyFolder, "expiry", lambda self, role, now: real(self, role, now - timedelta(days=20)))
    expires = refresh(publisher.place, publisher.keys, on_progress=said.append)
    (notice,) = said
    assert isinstance(notice, Notice)
    assert f"and is until {expires:%Y-%m-%d %H:%M} UTC now: is this machine's clock right?" in notice.text


def test_a_damaged_blob_of_the_bundles_is_replaced_as_the_error_says(publisher: Publisher) -> None:
    """Building again alone leaves it: its size is right, so it counts as there."""
    bundle = publisher.release("1.0.0")
    blob = Path(publisher.store.location_of(bundle.manifest.files[0].digest))
    blob.chmod(0o644)
    blob.write_bytes(b"?" * blob.stat().st_size)
    with pytest.raises(StoreError, match=f"{blob}: .* bytes, sha256:") as caught:
        publisher.publish()
    assert caught.value.fix == f"rm -f {blob} && phipack release"
    blob.unlink()
    publisher.store.add_bundle(bundle)
    assert publisher.publish().new_catalog


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
    publisher: Publisher, catalog_url: str, tmp_path: Path
) -> None:
    publisher.release("1.0.0")
    publisher.publish()
    phones = [Phone(tmp_path / f"phone-{n}", catalog_url, publisher.root, name=f"phone {n}") for n in range(12)]
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


def test_publishers_at_once_lose_nothing(publisher: Publisher) -> None:
    bundles = {}
    for number in range(4):
        bundles[number] = publisher.release(f"1.{number}.0", cells={f"cell-{number}": "iphone-15"})

    def run(number: int) -> None:
        from devtools.catalogs import Rows
        from registry.publication import publish
        from targets.devices import load_targets

        mine = Rows([row for row in publisher.registry.rows if row.cell == f"cell-{number}"])
        order = Order("phi", f"channel-{number}", new_catalog=True)
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
    order = Order("phi", "production", deltas=True, new_catalog=True)
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
