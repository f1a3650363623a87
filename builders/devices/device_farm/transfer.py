"""Bytes to and from the addresses that Device Farm hands out: signed for one use, without credentials of ours."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import urllib3

from targets.errors import DeviceError, DeviceUnreachableError
from targets.progress import Progress, Step

_TIMEOUT = urllib3.Timeout(connect=30, read=300)
_PIECE = 1 << 20


class _Counted:
    """A file that reports how far it was read."""

    def __init__(self, stream: IO[bytes], step: Step, on_progress: Progress) -> None:
        self._stream, self._step, self._on_progress, self._done = stream, step, on_progress, 0

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes."""
        piece = self._stream.read(min(count, _PIECE) if count > 0 else _PIECE)
        self._done += len(piece)
        self._on_progress(Step("upload", self._done, self._step.total, "bytes", self._step.subject))
        return piece


def send_file(path: Path, url: str, on_progress: Progress) -> None:
    """Put a file to an address. Raises `DeviceError` where it is refused."""
    size = path.stat().st_size
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    with path.open("rb") as stream:
        body: Any = _Counted(stream, Step("upload", 0, size, "bytes", path.name), on_progress)
        try:
            answer = urllib3.request("PUT", url, body=body, headers=headers, timeout=_TIMEOUT, retries=False)
        except urllib3.exceptions.HTTPError as error:
            raise DeviceUnreachableError(
                f"{path.name} can't be uploaded: {type(error).__name__}", fix="try again"
            ) from error
    if answer.status != 200:
        raise DeviceError(
            f"{path.name} can't be uploaded: HTTP {answer.status}", fix="try again: its address may be too old"
        )


def download(url: str, limit: int) -> bytes:
    """Return what is at an address, at most `limit` bytes. Raises `DeviceError` where it is refused or larger."""
    try:
        answer = urllib3.request("GET", url, timeout=_TIMEOUT, retries=3, preload_content=False)
        with answer:
            content = answer.read(limit + 1)
    except urllib3.exceptions.HTTPError as error:
        raise DeviceUnreachableError(
            f"an artifact can't be fetched: {type(error).__name__}", fix="measure again"
        ) from error
    if answer.status != 200 or len(content) > limit:
        problem = f"HTTP {answer.status}" if answer.status != 200 else f"more than {limit:,} bytes"
        raise DeviceError(f"an artifact can't be fetched: {problem}", fix="measure again")
    return bytes(content)
