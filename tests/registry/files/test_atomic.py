"""One file, whole or not at all: replaced or created, nothing left behind, links not followed."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.files.atomic import UNFINISHED_SUFFIX, remove_unfinished, unfinished_file, write_atomically

_DIES = """
import os, signal, sys
from pathlib import Path
from registry.files.atomic import unfinished_file
with unfinished_file(Path(sys.argv[1]), "kept") as file:
    file.out.write(b"half")
    file.out.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "new-folder" / "file"
    assert write_atomically(path, b"one", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert names(path.parent) == ["file"]


def test_without_replace_the_first_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: write_atomically(path, b"%d" % number, replace=False), range(8)))
    assert sum(made) == 1
    assert path.read_bytes() == b"%d" % made.index(True)
    assert names(tmp_path) == ["file"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"one")
    with pytest.raises(TypeError), unfinished_file(tmp_path, "file") as file:
        file.out.writelines([b"two", "no bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"one"
    assert names(tmp_path) == ["file"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "file").symlink_to(precious)
    write_atomically(tmp_path / "file", b"new")
    assert not (tmp_path / "file").is_symlink()
    assert precious.read_bytes() == b"precious"


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _DIES, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(UNFINISHED_SUFFIX)
    (tmp_path / "mine.new").write_bytes(b"no unfinished file")
    with unfinished_file(tmp_path, "kept") as file:
        remove_unfinished(tmp_path)
        assert names(tmp_path) == sorted([file.path.name, "mine.new"])
