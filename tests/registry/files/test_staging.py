"""Write next to the destination, verify, rename; and what is swept."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.files.staging import STAGING_MARK, disk_errors, owner_mark, staged_folder
from targets.errors import BuildError, StoreError
from tests.support.folders import contents, names_in
from tests.support.strangers import as_root, shared, strangers


def dead_mark() -> str:
    """The owner mark of a process of this machine that is gone."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    host, _, _ = owner_mark().split("-")
    return f"{host}-{process.pid}-"


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "new" / "out") as folder:
        (folder / "a").write_bytes(b"1")
        assert not (tmp_path / "new" / "out").exists()
    assert contents(tmp_path) == {"new/out/a": b"1"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_nothing_is_left_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises((error, BuildError)), staged_folder(tmp_path / "out") as folder:  # noqa: PT012
        (folder / "a").write_bytes(b"1")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_exists_stays_unless_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_bytes(b"old")
    with pytest.raises(BuildError, match="exists already"), staged_folder(out):
        raise AssertionError
    with pytest.raises(RuntimeError), staged_folder(out, replace=True) as folder:  # noqa: PT012
        (folder / "new").write_bytes(b"new")
        raise RuntimeError
    assert contents(tmp_path) == {"out/old": b"old"}
    with staged_folder(out, replace=True) as folder:
        (folder / "new").write_bytes(b"new")
    assert contents(tmp_path) == {"out/new": b"new"}


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with staged_folder(tmp_path / "out") as folder:
        (folder / "a").write_bytes(b"1")
    assert contents(tmp_path) == {"out/a": b"1"}


def test_the_home_and_the_working_folder_are_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home" / "me").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "file").write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "me"))
    monkeypatch.chdir(tmp_path / "work")
    for precious in (tmp_path / "home", tmp_path / "work", Path(), Path("..")):
        with pytest.raises(BuildError, match="not replaced"), staged_folder(precious, replace=True):
            raise AssertionError


def test_the_leavings_of_the_dead_are_swept(tmp_path: Path) -> None:
    left = tmp_path / f"{STAGING_MARK}{dead_mark()}abcdefgh-new-out"
    left.mkdir()
    (left / "half").write_bytes(b"")
    with staged_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_not_surely_dead_or_not_ours_is_left_alone(tmp_path: Path) -> None:
    dead = dead_mark()
    for name in (
        f"{STAGING_MARK}{owner_mark()}abcdefgh-new-out",  # alive
        f"{STAGING_MARK}00000000-{dead.split('-')[1]}-abcdefgh-new-out",  # another machine's
        f"{STAGING_MARK}{dead}abcdefgh-new-out-2",  # another destination's
        f"{STAGING_MARK}{dead}abcdefgh-new-2-out",
    ):
        (tmp_path / name).mkdir()
    with staged_folder(tmp_path / "out"):
        pass
    assert len(list(tmp_path.iterdir())) == 5


def test_what_stood_there_is_put_back_after_a_death_between_two_renames(tmp_path: Path) -> None:
    aside = tmp_path / f"{STAGING_MARK}{dead_mark()}abcdefgh-old-out"
    (aside / "out").mkdir(parents=True)
    (aside / "out" / "kept").write_bytes(b"kept")
    with pytest.raises(BuildError, match="exists already"), staged_folder(tmp_path / "out"):
        raise AssertionError
    assert contents(tmp_path) == {"out/kept": b"kept"}


@pytest.mark.parametrize("interrupted", [(2,), (3,), (2, 3)])
def test_an_interrupt_between_two_renames_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: tuple[int, ...]
) -> None:
    """The first rename finds the old folder in its way, the second moves that away, the third is the new one's."""
    calls, rename = itertools.count(1), Path.rename

    def then_interrupted(self: Path, target: Path) -> Path:
        number = next(calls)
        renamed = rename(self, target)
        if number in interrupted:
            raise KeyboardInterrupt
        return renamed

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "out", replace=True) as folder:  # noqa: PT012
        (folder / "kept").write_bytes(b"new")
        monkeypatch.setattr(Path, "rename", then_interrupted)
    monkeypatch.undo()
    found = contents(tmp_path / "out") if (tmp_path / "out").exists() else contents(next(tmp_path.glob("*/out")))
    assert found == {"kept": b"new" if interrupted == (3,) else b"old"}


def test_what_can_not_be_put_back_stays_where_it_was_moved_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, rename = itertools.count(1), Path.rename

    def refused(self: Path, target: Path) -> Path:
        if next(calls) > 2:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_bytes(b"old")
    with pytest.raises(BuildError), staged_folder(tmp_path / "out", replace=True):
        monkeypatch.setattr(Path, "rename", refused)
    monkeypatch.undo()
    (aside,) = tmp_path.glob(f"{STAGING_MARK}*-old-out")
    assert contents(aside) == {"out/kept": b"old"}


@as_root
def test_what_a_stranger_left_to_be_put_back_is_not(tmp_path: Path) -> None:
    everybodys = shared(tmp_path / "everybodys")
    aside = everybodys / f"{STAGING_MARK}{dead_mark()}abcdefgh-old-out"
    (aside / "out").mkdir(parents=True)
    (aside / "out" / "weights").write_bytes(b"theirs")
    strangers(aside)
    (tmp_path / "away" / "out").mkdir(parents=True)
    (everybodys / f"{STAGING_MARK}{dead_mark()}abcdefgh-old-out").symlink_to(tmp_path / "away")
    with staged_folder(everybodys / "out") as folder:
        (folder / "weights").write_bytes(b"ours")
    assert (everybodys / "out" / "weights").read_bytes() == b"ours"
    assert aside.exists()
    assert (tmp_path / "away" / "out").exists()


def test_of_two_that_make_the_same_folder_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="exists already"), staged_folder(tmp_path / "out") as second:  # noqa: PT012
        (second / "a").write_bytes(b"second")
        with staged_folder(tmp_path / "out") as first:
            (first / "a").write_bytes(b"first")
    assert contents(tmp_path) == {"out/a": b"first"}


def test_all_who_replace_the_same_folder_succeed_and_one_is_there(tmp_path: Path) -> None:
    start = threading.Barrier(4)

    def replace(number: int) -> None:
        for _ in range(20):
            with staged_folder(tmp_path / "out", replace=True) as folder:
                for name in "ab":
                    (folder / name).write_bytes(b"%d" % number)
                start.wait(60)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(replace, range(4)))
    assert len(set(contents(tmp_path / "out").values())) == 1
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize("make", [os.mkfifo, Path.touch])
@pytest.mark.parametrize("replace", [False, True])
def test_what_is_no_folder_is_never_replaced(tmp_path: Path, make: Callable[[Path], None], *, replace: bool) -> None:
    make(tmp_path / "out")
    with pytest.raises(BuildError, match="not a folder"), staged_folder(tmp_path / "out", replace=replace):
        raise AssertionError
    assert names_in(tmp_path) == ["out"]


def test_a_link_is_replaced_and_what_it_leads_to_kept(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    for name, place in (("link", "precious"), ("dangling", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / place)
        with pytest.raises(BuildError, match="exists already"), staged_folder(tmp_path / name):
            raise AssertionError
        with staged_folder(tmp_path / name, replace=True):
            pass
        assert not (tmp_path / name).is_symlink()
    assert names_in(tmp_path) == ["dangling", "link", "precious"]


@pytest.mark.parametrize(
    ("number", "words"), [(28, "no space"), (13, "can't be written"), (30, "can't"), (5, "failed")]
)
def test_the_systems_refusals_become_sentences(number: int, words: str) -> None:
    with pytest.raises(StoreError, match=words) as caught, disk_errors(Path("out"), StoreError):
        raise OSError(number, os.strerror(number))
    assert caught.value.fix
