"""Large files: the bytes that were given, whatever their count, on every kind of file system and on a full disk."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.files import large_file
from registry.files.large_file import LargeFile, read_pieces
from tests.support.cases import examples

SIZES = [0, 1, 4095, 4096, 4097, (8 << 20) - 1, 8 << 20, (8 << 20) + 1]


@pytest.mark.parametrize("kind", ["as the system can", "refused", "unknown"])
@pytest.mark.parametrize("size", SIZES)
def test_the_file_holds_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size: int) -> None:
    if kind == "unknown":
        monkeypatch.delattr(os, "O_DIRECT", raising=False)
    if kind == "refused":
        monkeypatch.setattr(fcntl, "fcntl", _refusing_direct)
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    with LargeFile(tmp_path / "file") as file:
        file.write(content[:7])
        file.write(memoryview(content)[7:])
        assert file.position == size
    assert (tmp_path / "file").read_bytes() == content


_fcntl = fcntl.fcntl


def _refusing_direct(handle: int, command: int, argument: int = 0) -> int:
    if command == fcntl.F_SETFL and argument & os.O_DIRECT:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return _fcntl(handle, command, argument)


@settings(max_examples=examples(50), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.binary(max_size=9000), max_size=8))
def test_pieces_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]) -> None:
    monkeypatch.setattr(large_file, "_BUFFER_BYTES", 8192)
    (tmp_path / "file").unlink(missing_ok=True)
    with LargeFile(tmp_path / "file") as file:
        for piece in pieces:
            file.write(piece)
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


def test_only_a_new_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    (tmp_path / "nowhere").symlink_to(tmp_path / "new")
    for name in ("precious", "link", "nowhere"):
        with pytest.raises(FileExistsError):
            LargeFile(tmp_path / name)
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "new").exists()


def test_an_error_inside_is_not_hidden_by_the_rest(tmp_path: Path) -> None:
    def interrupted() -> None:
        with LargeFile(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "file").read_bytes() == b""


def test_a_disk_that_fills_up_is_reported(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, ((9 << 20) + 100, (9 << 20) + 100));"
        "from pathlib import Path; from registry.files.large_file import LargeFile, read_pieces\n"
        "with LargeFile(Path(sys.argv[1])) as file:\n    file.write(bytes(20 << 20))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "file")], capture_output=True, text=True, check=False
    )
    assert result.stderr.splitlines()[-1] == "OSError: [Errno 27] File too large"


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, 40_000), bounds=st.tuples(st.integers(0, 40_000), st.integers(0, 40_000)))
def test_pieces_are_the_files_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, bounds: tuple[int, int]
) -> None:
    monkeypatch.setattr(large_file, "_BUFFER_BYTES", 8192)
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    start, stop = sorted(min(bound, size) for bound in bounds)
    assert b"".join(map(bytes, read_pieces(tmp_path / "file", start, stop))) == content[start:stop]
    assert b"".join(map(bytes, read_pieces(tmp_path / "file"))) == content


def test_a_file_that_became_shorter_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"short")
    with pytest.raises(OSError, match="ends at"):
        list(read_pieces(tmp_path / "file", 0, 10_000))
