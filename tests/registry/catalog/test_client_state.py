"""What a client keeps of a catalog is its user's own: whoever can write there decides what is trusted."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.catalogs import Phone, Publisher
from devtools.servers import RangeHandler, serving
from registry.catalog.client import install_id
from targets.errors import FetchError
from tests.support.folders import contents
from tests.support.strangers import as_root, be_a_stranger, shared, strangers


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[Phone]:
    """A phone that can fetch what is published."""
    publisher = Publisher(tmp_path / "publisher")
    publisher.release("1.0.0")
    publisher.publish()
    with serving(publisher.place.root, kind=RangeHandler) as url:
        yield Phone(tmp_path / "phone", url, publisher.root)


def kept(phone: Phone) -> Path:
    """The folder of what is kept of the one catalog."""
    (folder,) = (phone.folder / "state" / "catalogs").iterdir()
    return folder


def test_all_of_it_is_its_owners_alone(phone: Phone) -> None:
    mask = os.umask(0)
    try:
        phone.fetch()
        install_id(phone.folder / "state")
    finally:
        os.umask(mask)
    state = phone.folder / "state"
    closed = [state, state / "catalogs", kept(phone), kept(phone) / "metadata", kept(phone) / "documents"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in closed} == {0o700}
    files = [state / "install-id", kept(phone) / "lock", *(kept(phone) / "documents").iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.parametrize("name", ["documents", "metadata", "."])
def test_a_link_in_its_place_is_refused_and_what_it_leads_to_kept(phone: Phone, tmp_path: Path, name: str) -> None:
    phone.fetch()
    place = kept(phone) / name if name != "." else kept(phone)
    (tmp_path / "precious").mkdir()
    place.rename(tmp_path / "precious" / "moved")
    (tmp_path / "precious" / "kept").write_bytes(b"precious")
    before = contents(tmp_path / "precious")
    place.symlink_to(tmp_path / "precious")
    with pytest.raises(FetchError, match="a symbolic link, not a folder"):
        phone.fetch()
    assert contents(tmp_path / "precious") == before


def test_what_is_another_users_is_not_trusted(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    phone.fetch()
    be_a_stranger(monkeypatch)
    for use in (phone.fetch, lambda: install_id(phone.folder / "state")):
        with pytest.raises(FetchError, match="belongs to"):
            use()


def test_what_everybody_could_write_is_not_trusted(phone: Phone) -> None:
    phone.fetch()
    for path in (kept(phone), phone.folder / "state"):
        path.chmod(0o777)
        with pytest.raises(FetchError, match="can be written by everybody") as caught:
            phone.fetch()
        assert f"chmod 700 {path}" in caught.value.fix
        path.chmod(0o755)
        phone.fetch()


def test_the_folder_that_a_user_names_may_be_a_link_of_theirs(phone: Phone, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    phone.folder.mkdir()
    (phone.folder / "state").symlink_to(tmp_path / "elsewhere")
    assert phone.fetch()[1] == "1.0.0"


@as_root
def test_a_strangers_link_to_ones_own_folder_is_refused(phone: Phone, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    shared(phone.folder)
    (phone.folder / "state").symlink_to(tmp_path / "own")
    strangers(phone.folder / "state")
    with pytest.raises(FetchError, match="everybody may write"):
        phone.fetch()
    assert contents(tmp_path / "own") == {}


def test_an_install_id_is_read_from_a_plain_file_alone(tmp_path: Path) -> None:
    name = install_id(tmp_path / "state")
    assert install_id(tmp_path / "state") == name
    (tmp_path / "state" / "install-id").unlink()
    os.mkfifo(tmp_path / "state" / "install-id")
    with pytest.raises(FetchError, match="a pipe"):
        install_id(tmp_path / "state")
