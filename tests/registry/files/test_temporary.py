"""Temporary folders: removed with their block, or by the next process where that one was killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from registry.files.staging import owner_mark
from registry.files.temporary import temporary_folder
from targets.errors import BuildError, PhipackError, RegistryError


def test_it_goes_with_its_block_whatever_is_raised(tmp_path: Path) -> None:
    def work() -> None:
        with temporary_folder("kind", tmp_path / "place") as folder:
            assert folder.stat().st_mode & 0o077 == 0
            (folder / "file").write_bytes(b"content")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        work()
    assert list((tmp_path / "place").iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host, mine, _ = owner_mark().split("-")
    names = (f"{host}-{ended.pid}-abc", f"{host}-{mine}-abc", f"0000000f-{ended.pid}-abc")
    for name in (*(f"kind-{name}" for name in names), f"other-{host}-{ended.pid}-abc", "kind-mine"):
        (tmp_path / name / "below").mkdir(parents=True)
    (tmp_path / f"kind-{host}-{ended.pid}-file").touch()
    with temporary_folder("kind", tmp_path) as folder:
        left = {path.name for path in tmp_path.iterdir()} - {folder.name}
    assert left == {
        *(f"kind-{name}" for name in names[1:]),
        f"other-{host}-{ended.pid}-abc",
        "kind-mine",
        f"kind-{host}-{ended.pid}-file",
    }


def test_a_removal_that_fails_does_not_fail_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: object, *, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(5, "Input/output error")

    with temporary_folder("kind", tmp_path) as folder:
        monkeypatch.setattr(shutil, "rmtree", refused)
    assert folder.exists()


@pytest.mark.parametrize("kind", [BuildError, RegistryError])
def test_a_place_that_can_not_be_made_is_named(tmp_path: Path, kind: type[PhipackError]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(kind, match="file"), temporary_folder("kind", tmp_path / "file" / "place", kind=kind):
        pass


def test_a_tmpdir_that_is_named_is_taken_whatever_is_wrong_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would go to /tmp without a word, where there may be no room."""
    monkeypatch.setattr(tempfile, "tempdir", "/elsewhere")  # what Python has found
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with temporary_folder("phipack-test") as folder:
        assert folder.parent == tmp_path
    monkeypatch.setenv("TMPDIR", str(tmp_path / "misspelt"))
    with pytest.raises(BuildError, match="misspelt, which is no folder") as caught, temporary_folder("phipack-test"):
        pass
    assert "unset TMPDIR" in caught.value.fix
    assert not (tmp_path / "misspelt").exists()
