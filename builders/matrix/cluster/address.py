"""Where a cluster is: an address, a scheduler's file, or `local:N`. Nothing here connects."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from targets.bounded_file import read_at_most
from targets.errors import ClusterError
from targets.strict_json import parse_json

ENCRYPTED = ("tls", "wss")
PLAINTEXT = ("tcp", "ws")
_INSIDE = "inproc"  # a scheduler of this process
_LOCAL = re.compile(r"local:([1-9][0-9]{0,3})")
_FILE_LIMIT = 1 << 20


@dataclass(frozen=True)
class Credentials:
    """Files of TLS: the CA that signs the scheduler, this client's certificate and key. For None, dask's settings."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class ClusterAddress:
    """Where a cluster is: exactly one of `address`, `scheduler_file` and `local_workers`.

    `plaintext`: whether a scheduler on another machine may be used without TLS. Everybody who reaches such a scheduler
    runs code as its owner.
    """

    text: str
    address: str | None = None
    scheduler_file: Path | None = None
    local_workers: int | None = None
    plaintext: bool = False
    credentials: Credentials = Credentials()

    def resolve(self) -> str:
        """Return the scheduler's address as of now: a scheduler that was started again writes its file again.

        Raises:
            ClusterError: the file can't be read; or the address is another machine's, and without TLS.
        """
        address = self.address or _address_in(self.scheduler_file or Path(self.text))
        scheme = urlsplit(address).scheme
        if scheme in PLAINTEXT and not self.plaintext and not _is_loopback(address):
            raise ClusterError(
                f"{address}: the scheduler is on another machine, and its connections are not encrypted: "
                "whoever reaches it can run code on the workers, and read what they are sent",
                fix="start scheduler and workers with TLS (docs/cluster.md) and use tls://…; in a network where "
                "everybody may do that, add --cluster-plaintext",
            )
        return address


def parse_cluster(text: str, *, plaintext: bool = False, credentials: Credentials = Credentials()) -> ClusterAddress:
    """Return what `--cluster` says: `tcp://…`, `tls://…`, `local:N`, or a scheduler's file.

    Raises:
        ClusterError: it is none of these.
    """
    if local := _LOCAL.fullmatch(text):
        return ClusterAddress(text, local_workers=int(local[1]))
    if "://" in text:
        _check_scheme(text)
        return ClusterAddress(text, address=text, plaintext=plaintext, credentials=credentials)
    if text.startswith("local"):
        raise ClusterError(f"{text!r} is no cluster", fix="write local:2 for two workers on this machine")
    return ClusterAddress(text, scheduler_file=Path(text), plaintext=plaintext, credentials=credentials)


def _check_scheme(address: str) -> None:
    parts = urlsplit(address)
    try:
        has_place = parts.scheme == _INSIDE or (parts.hostname is not None and parts.port is not None)
    except ValueError:  # the port is no number
        has_place = False
    if parts.scheme not in (*ENCRYPTED, *PLAINTEXT, _INSIDE) or not has_place:
        raise ClusterError(
            f"{address!r} is no scheduler's address", fix="write it as dask prints it, such as tls://scheduler:8786"
        )


def _address_in(path: Path) -> str:
    """Read the file that `dask scheduler --scheduler-file`, dask-jobqueue and dask-kubernetes write."""
    fix = "name the file that `dask scheduler --scheduler-file FILE` wrote, or the scheduler's address"
    try:
        content = parse_json(read_at_most(path, _FILE_LIMIT)[:_FILE_LIMIT])
    except OSError as error:
        raise ClusterError(f"scheduler file {path} can't be read: {error.strerror or error}", fix=fix) from error
    except ValueError as error:
        raise ClusterError(f"scheduler file {path} is not JSON: {error}", fix=fix) from error
    address = content.get("address") if isinstance(content, dict) else None
    if not isinstance(address, str):
        raise ClusterError(f"scheduler file {path} names no address", fix=fix)
    _check_scheme(address)
    return address


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
