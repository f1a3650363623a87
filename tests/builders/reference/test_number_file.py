"""Files of numbers: whole or not at all, and damage is seen."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from builders.reference.number_file import prepare_folder, read_numbers, write_numbers
from registry.files.staging import owner_mark

PIECES = [np.arange(6, dtype=np.float32).reshape(2, 3), np.float32([7.5])]


def test_the_layout_is_a_digest_and_the_numbers(tmp_path: Path) -> None:
    write_numbers(tmp_path / "file", PIECES)
    content = (tmp_path / "file").read_bytes()
    numbers = np.array([0, 1, 2, 3, 4, 5, 7.5], "<f4").tobytes()
    assert content == hashlib.sha256(numbers).digest() + numbers
    np.testing.assert_array_equal(read_numbers(tmp_path / "file"), [0, 1, 2, 3, 4, 5, 7.5])
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", [0, 10, 31, 33, 55, 59])
def test_a_file_that_was_cut_or_changed_is_an_error(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "file"
    write_numbers(file, PIECES)
    whole = file.read_bytes()
    for damaged in (whole[:cut], whole[:cut] + bytes([whole[cut] ^ 1]) + whole[cut + 1 :], whole + b"1234"):
        file.write_bytes(damaged)
        with pytest.raises(OSError, match="damaged"):
            read_numbers(file)


def test_what_ends_halfway_leaves_what_was_there(tmp_path: Path) -> None:
    def pieces() -> Iterator[np.ndarray]:
        yield PIECES[0]
        raise KeyboardInterrupt

    write_numbers(tmp_path / "file", PIECES[1:])
    with pytest.raises(KeyboardInterrupt):
        write_numbers(tmp_path / "file", pieces())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    np.testing.assert_array_equal(read_numbers(tmp_path / "file"), [7.5])


def test_what_a_killed_process_was_writing_is_removed_and_never_read(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine, host = owner_mark(), owner_mark().split("-")[0]
    left = tmp_path / f".file.{host}-{gone.pid}-0123abcd.new"
    other = tmp_path / f".file.{mine}0123abcd.new"  # of a process that still runs
    for path in (left, other):
        path.write_bytes(b"half")
    with pytest.raises(FileNotFoundError):
        read_numbers(tmp_path / "file")
    prepare_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [other.name]
