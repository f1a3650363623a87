"""Who runs this process, and where their files are: also in a container, where the system may know neither."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from targets.errors import SetupError


def user_name() -> str:
    """Return the user's name: LOGNAME, USER, LNAME or USERNAME, else the system's; `uid1234` where there is none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # KeyError before Python 3.13
        return f"uid{os.getuid()}"


def home_folder() -> Path | None:
    """Return HOME, else the system's entry for this user; None where there is neither."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with `~` and `~NAME` at its start replaced. Raises `SetupError` where that folder is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise SetupError(
            f"{os.fspath(path)}: HOME is not set, and the system has no entry for {unknown_user(path)}",
            fix="set HOME, or write the path without ~",
        ) from error


def unknown_user(path: str | os.PathLike[str] = "~") -> str:
    """Return whom `~` at the start of a path means, for messages."""
    name = os.fspath(path).partition("/")[0].removeprefix("~")
    return f"user {name!r}" if name else f"this user ({user_name()})"
