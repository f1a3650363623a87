"""Whether a path that is stated is there, and which other one may be meant. A project file's is reported at its key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from targets.errors import PhipackError, ProjectError, closest
from targets.toml_file import located
from targets.toml_lines import KeyPath

PathKind = Literal["file", "folder"]


def require_stated(project_file: Path, keys: KeyPath, path: Path, kind: PathKind) -> None:
    """Check that a file or folder is there. What is in it, whoever reads it checks.

    Raises:
        ProjectError: it is not, with the project file's line and key.
    """
    if path.is_dir() if kind == "folder" else path.exists() and not path.is_dir():
        return
    found = f"this is no {kind}" if os.path.lexists(path) else f"there is no such {kind}"
    meant = f"did you mean {near!r}? A" if (near := neighbour(path)) else "correct it: a"
    fix = f"{meant} path is relative to the project file's folder"
    raise ProjectError(f"{located(project_file, keys)}: {path}: {found}", fix=fix)


def require_kept(path: Path, what: str, error: type[PhipackError]) -> None:
    """Raise `error` for a pipe or a terminal: what comes from there can't be read twice. `what`: what is read."""
    if path.is_fifo() or path.is_char_device():
        raise error(f"{path} is no regular file: {what} is read several times", fix="write it to a file first")


def neighbour(path: Path) -> str | None:
    """Return the name next to a path that is most similar to its own; None where none is."""
    try:
        names = [one.name for one in path.parent.iterdir() if one.name != path.name]
    except (OSError, ValueError):  # ValueError: a path that no disk has
        return None
    return closest(path.name, names)


def fix_for(path: Path, otherwise: str) -> str:
    """Return the fix for a path that is not there: the neighbour that may be meant, or else what is passed."""
    near = neighbour(path)
    return otherwise if near is None else f"did you mean {near!r}?"
