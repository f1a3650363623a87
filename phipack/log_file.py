"""`--log-file`: all that a command says, with time stamps, and tracebacks of errors. Appended to, line by line."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from targets.errors import PhipackError
from targets.printable import printable
from targets.secrets import without_secrets


@dataclass
class LogFile:
    """An open log. What can't be written, on a full disk, is lost: the command goes on.

    `secret_addresses`: those that the command works on; what is secret in them is left out wherever it is repeated.
    """

    file: TextIO
    secret_addresses: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, text: str) -> None:
        """Write lines, each with the time in UTC; secrets in addresses are left out, and what a terminal obeys."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        lines = printable(without_secrets(text, *self.secret_addresses)).splitlines()
        with self._lock:
            try:
                self.file.write("".join(f"{stamp} {line}\n" for line in lines))
                self.file.flush()
            except (OSError, ValueError):  # full, or closed already
                return

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            try:
                self.file.close()
            except OSError:
                return


def open_log(path: Path) -> LogFile:
    """Open a file to append to, a regular one. Raises `PhipackError` where that can't be."""
    from registry.files.output_file import open_to_append
    from registry.files.owned import NotOwnedError

    try:
        return LogFile(os.fdopen(open_to_append(path), "a", encoding="utf-8", errors="backslashreplace"))
    except NotOwnedError as error:
        raise PhipackError(error.problem, fix=f"--log-file takes the path of a file: {error.fix}") from error
    except OSError as error:
        raise PhipackError(
            f"{path}: the log can't be written: {error.strerror or error}",
            fix="give --log-file a path in a folder that exists and that you may write to",
        ) from error
