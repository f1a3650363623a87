"""Another user: what they put into a folder that everybody may write, and a process of theirs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

STRANGER = 54_321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user's")


def shared(folder: Path) -> Path:
    """Make a folder that everybody may write, as /tmp is."""
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def strangers(path: Path) -> Path:
    """Make a path another user's; of a link, the link itself."""
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    return path


def be_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process count as another user's: what is there is then a stranger's, for every user who runs a test."""
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + STRANGER)
