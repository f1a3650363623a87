"""A path that a project file states: whether it is there. One that is not is reported at its key."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Literal

from targets.errors import ProjectError
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
    raise ProjectError(f"{located(project_file, keys)}: {path}: {found}", fix=_fix(path))


def _fix(path: Path) -> str:
    """Name the neighbour that may be meant."""
    try:
        names = [one.name for one in path.parent.iterdir() if one.name != path.name]
    except OSError:
        names = []
    near = difflib.get_close_matches(path.name, names, n=1)
    meant = f"did you mean {near[0]!r}? A" if near else "correct it: a"
    return f"{meant} path is relative to the project file's folder"
