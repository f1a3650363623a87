"""What is found where others may write: only what is this user's own counts, and nothing is followed or emptied."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from registry.files.output_file import check_output_file, open_to_append, write_output_file
from registry.files.owned import (
    NotOwnedError,
    create_file,
    is_own_file,
    keeps_modes,
    open_found,
    open_or_create,
    private_folder,
    require_not_planted,
    require_own_folder,
)
from registry.files.staging import disk_errors
from registry.transfer.partial import partial_folder
from targets.errors import BuildError
from tests.support.folders import contents, names_in
from tests.support.strangers import as_root, be_a_stranger, shared, strangers

DIGEST = f"sha256:{'0' * 64}"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    path = tmp_path / "precious"
    path.write_bytes(b"precious")
    return path


def plant(kind: str, at: Path, precious: Path) -> None:
    match kind:
        case "link":
            at.symlink_to(precious)
        case "dangling link":
            at.symlink_to(precious.with_name("nowhere"))
        case "second name":
            at.hardlink_to(precious)
        case "pipe":
            os.mkfifo(at)
        case "folder":
            at.mkdir()
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(os.path.relpath(at))


KINDS = ("link", "dangling link", "second name", "pipe", "folder", "socket")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_is_neither_opened_nor_made(kind: str, tmp_path: Path, precious: Path) -> None:
    plant(kind, tmp_path / "file", precious)
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "file")
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
        with pytest.raises(NotOwnedError, match=kind.removeprefix("dangling ")):
            open_found(tmp_path / "file", flags)
        with pytest.raises(NotOwnedError):
            open_or_create(tmp_path / "file", 0o600, flags, own=False)
    assert contents(tmp_path)["precious"] == b"precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_file_of_this_users_is_opened_and_a_strangers_is_not(precious: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious.chmod(0o644)  # whatever the umask
    os.close(open_found(precious, os.O_RDWR))
    assert is_own_file(precious.lstat())
    precious.chmod(0o666)
    assert not is_own_file(precious.lstat())  # others may have it open to write
    be_a_stranger(monkeypatch)
    with pytest.raises(NotOwnedError, match="belongs to"):
        open_found(precious, os.O_RDWR)
    os.close(open_found(precious, os.O_RDWR, own=False))


def test_a_private_folder_is_made_closed_and_stays_closed(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        folder = private_folder(tmp_path / "above" / "folder")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o775)
    assert stat.S_IMODE(private_folder(folder).stat().st_mode) == 0o700
    folder.chmod(0o777)
    with pytest.raises(BuildError, match="written by everybody") as caught, disk_errors(folder):
        private_folder(folder)
    assert f"chmod 700 {folder}" in caught.value.fix


@pytest.fixture
def without_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk as Windows' in WSL, CIFS and exFAT: every file shows the mode 0777, and no chmod changes it."""
    lstat = Path.lstat

    def shown(path: Path) -> os.stat_result:
        status = lstat(path)
        return os.stat_result((status.st_mode | 0o777, *status[1:]))

    monkeypatch.setattr(Path, "lstat", shown)
    monkeypatch.setattr(Path, "chmod", lambda *_, **__: None)


@pytest.mark.usefixtures("without_modes")
def test_a_disk_that_keeps_no_modes_is_used_as_it_is(tmp_path: Path) -> None:
    for _ in range(2):
        private_folder(tmp_path / "work")
        require_own_folder(tmp_path / "work")
    assert names_in(tmp_path / "work") == []
    with suppress(KeyError), partial_folder(tmp_path / "out", DIGEST) as folder:
        (folder / "0").write_bytes(b"half")
        raise KeyError
    with partial_folder(tmp_path / "out", DIGEST) as folder:
        assert (folder / "0").read_bytes() == b"half"


@pytest.mark.usefixtures("without_modes")
def test_exfat_which_refuses_a_chmod_is_used_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    for _ in range(2):
        private_folder(tmp_path / "work")


def test_a_folder_that_is_open_by_a_slip_is_no_disk_without_modes(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert keeps_modes(tmp_path)
    assert names_in(tmp_path) == []
    with pytest.raises(NotOwnedError, match="written by everybody"):
        require_own_folder(tmp_path)


def test_a_private_folder_is_no_link_no_file_and_no_strangers(
    tmp_path: Path, precious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "own")
    for path, word in ((tmp_path / "link", "symbolic link"), (precious, "a file")):
        with pytest.raises(NotOwnedError, match=word):
            private_folder(path)
    require_own_folder(tmp_path / "own")
    be_a_stranger(monkeypatch)
    with pytest.raises(NotOwnedError, match="belongs to"):
        private_folder(tmp_path / "own")


@as_root
def test_what_a_stranger_planted_is_refused_where_everybody_may_write_alone(tmp_path: Path) -> None:
    everybodys, own = shared(tmp_path / "everybodys"), tmp_path / "own"
    own.mkdir()
    for folder in (everybodys, own):
        (folder / "theirs").mkdir()
        strangers(folder / "theirs")
        (folder / "link").symlink_to("/etc/hostname")
        strangers(folder / "link")
        (folder / "mine").mkdir()
    for name in ("theirs", "link"):
        with pytest.raises(NotOwnedError, match="in a folder that everybody may write"):
            require_not_planted(everybodys / name)
        require_not_planted(own / name)
    require_not_planted(everybodys / "mine")
    require_not_planted(everybodys / "nothing")
    require_not_planted(tmp_path / "no" / "where")


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket"])
def test_an_output_that_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path, precious: Path) -> None:
    plant(kind, tmp_path / "out", precious)
    (tmp_path / "link to it").symlink_to(tmp_path / "out")
    for path in (tmp_path / "out", tmp_path / "link to it"):
        with pytest.raises(BuildError, match=f"a {kind}, not a regular file"):
            check_output_file(path)
        with pytest.raises(NotOwnedError):
            open_to_append(path)


def test_a_link_to_itself_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("out")
    with pytest.raises(BuildError, match="a symbolic link, not a regular file"):
        check_output_file(tmp_path / "out")
    with pytest.raises(NotOwnedError):
        open_to_append(tmp_path / "out")


@pytest.mark.parametrize("path", ["/dev/full", "/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_a_device_or_what_stands_for_a_stream_is_no_output(path: str) -> None:
    with pytest.raises(BuildError, match="no file of its own"):
        check_output_file(Path(path))
    with pytest.raises(NotOwnedError):
        open_to_append(Path(path))


def test_an_output_is_written_whole_and_through_a_link_of_ones_own(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "link").symlink_to(precious)
    for path in (tmp_path / "link", tmp_path / "new" / "out"):
        check_output_file(path)
        assert precious.read_bytes() == b"precious"
        write_output_file(path, b"result")
        assert path.read_bytes() == b"result"
        precious.write_bytes(b"precious")
    assert (tmp_path / "link").is_symlink()
    assert names_in(tmp_path) == ["link", "new", "precious"]


@as_root
def test_an_output_that_a_stranger_planted_is_not_written(tmp_path: Path, precious: Path) -> None:
    everybodys = shared(tmp_path / "everybodys")
    (everybodys / "out").symlink_to(precious)
    strangers(everybodys / "out")
    with pytest.raises(BuildError, match="everybody may write"):
        check_output_file(everybodys / "out")
    with pytest.raises(NotOwnedError):
        open_to_append(everybodys / "out")
    assert precious.read_bytes() == b"precious"


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    for text in (b"one", b"two"):
        handle = open_to_append(tmp_path / "log")
        os.write(handle, text)
        os.close(handle)
    assert (tmp_path / "log").read_bytes() == b"onetwo"
