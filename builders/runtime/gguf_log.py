"""llama.cpp's log: kept off standard error, with its last error lines for our own messages."""

from __future__ import annotations

import ctypes
from typing import Any

_ERROR_LEVEL = 4  # enum ggml_log_level
_errors: list[str] = []  # the last error lines: the log has one receiver a process
_callbacks: list[Any] = []  # kept for the life of the process: C holds the pointer


def silence(llama_cpp: Any) -> None:
    """Keep llama.cpp's log off standard error, and its error lines for our own messages."""
    llama_cpp.llama_log_set(_keep_errors(llama_cpp), ctypes.c_void_p(0))


def forget_errors() -> None:
    """Drop the lines of earlier calls."""
    _errors.clear()


def said() -> str:
    """Return the first error lines that are kept; empty where there are none."""
    return " ".join(_errors[:2])


def _keep_errors(llama_cpp: Any) -> Any:
    if not _callbacks:

        def keep(level: int, text: bytes, _data: object) -> None:
            if level == _ERROR_LEVEL and text.strip():
                _errors.append(text.decode("utf-8", "replace").strip())
                del _errors[:-8]

        _callbacks.append(llama_cpp.llama_log_callback(keep))
    return _callbacks[0]
