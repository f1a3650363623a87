"""The network as the environment describes it: one policy for downloads (urllib3), S3 (boto3) and MLflow (requests).

| what | where it comes from |
|---|---|
| CAs | the system's (`SSL_CERT_FILE`, `SSL_CERT_DIR`), `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`, `AWS_CA_BUNDLE` |
| proxy | `http_proxy`, `https_proxy`, else `all_proxy`: an HTTP proxy; a SOCKS proxy is refused by name |
| no proxy | `no_proxy`: hosts, domains, addresses, each with a port or without; networks such as 10.0.0.0/8; `*` |
| tries, waits, timeouts | `TRIES`, `RETRY_WAITS_SECONDS`, `CONNECT_SECONDS`, `SILENCE_SECONDS` |
| least rate of an answer | `pace.py` |

MLflow's client has tries and timeouts of its own (`mlflow_connection.py`): the lease on a model's channels counts on
them. Each library has a way of its own to be given these settings; none of them reads them by itself alike.
"""

from __future__ import annotations

import atexit
import functools
import ipaddress
import os
import ssl
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from registry.files.owned import is_own_file
from registry.files.staging import disk_errors, owner_mark
from registry.files.temporary import left_in, system_folder
from registry.transfer.http_address import host_of, http_address_problem, port_of
from targets.errors import SetupError
from targets.secrets import shown

RETRY_WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0)  # before each further try
TRIES = len(RETRY_WAITS_SECONDS) + 1
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 60.0  # each wait for bytes
SYSTEM_CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
MORE_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
CERTIFICATE_FIX = (
    "check the address and this machine's clock; a CA of your own is named by SSL_CERT_FILE, REQUESTS_CA_BUNDLE or"
    " AWS_CA_BUNDLE, and trusted by downloads, S3 and MLflow alike"
)
_CA_MARK = "phipack-ca-"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def tls_context() -> ssl.SSLContext:
    """Return a context that trusts the system's CAs and those that the environment names. Raises `SetupError`."""
    context = ssl.create_default_context()
    for name, path in _named_cas():
        if name not in SYSTEM_CA_VARIABLES:
            _load(context, name, path)
    return context


def ca_file(*more: str) -> str | None:
    """Return a file of the same CAs, for libraries that take no context; None: the library's own are all there is.

    `more`: further files that a library's own configuration names. Raises `SetupError`.
    """
    return _ca_file(tuple(_named_cas()) + tuple(("the configuration", path) for path in more))


def proxy_for(url: str) -> str | None:
    """Return the proxy through which a valid URL is reached; None: directly. Raises `SetupError`."""
    scheme = urllib.parse.urlsplit(url).scheme
    proxies = urllib.request.getproxies()
    name = scheme if proxies.get(scheme) else "all"
    proxy = proxies.get(name)
    if not proxy or _is_exempt(host_of(url), port_of(url) or _DEFAULT_PORTS[scheme], proxies):
        return None
    address = proxy if "://" in proxy else f"http://{proxy}"
    kind = address.partition("://")[0].lower()
    if kind.startswith("socks"):
        raise SetupError(
            f"{name}_proxy names a SOCKS proxy, {shown(address)}, and phipack uses HTTP proxies alone",
            fix=f"name an HTTP proxy in {name}_proxy, or reach the host directly: no_proxy={host_of(url)}",
        )
    if (problem := http_address_problem(address)) is not None:
        raise SetupError(f"{name}_proxy: {problem}", fix=f"write {name}_proxy=http://HOST:PORT")
    return address


def _is_exempt(host: str, port: int, proxies: Mapping[str, str]) -> bool:
    if urllib.request.proxy_bypass(host) or urllib.request.proxy_bypass(f"{host}:{port}"):
        return True  # the system's own settings, too
    return any(_matches(entry.strip(), host.lower(), port) for entry in proxies.get("no", "").lower().split(","))


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether an entry of `no_proxy` means a host."""
    if not entry or entry == "*":
        return entry == "*"
    with suppress(ValueError):
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
        with suppress(ValueError):
            return ipaddress.ip_address(host) in network
        return False
    name, colon, asked = entry.rpartition(":")
    if colon and asked.isdecimal():
        return int(asked) == port and _matches(name, host, port)
    name = entry.removeprefix("*").strip("[]").lstrip(".")
    return host == name or host.endswith(f".{name}")


def _named_cas() -> Iterator[tuple[str, str]]:
    """Yield the variables that name CAs, and what they name. Raises `SetupError` where that is missing."""
    for name in (*SYSTEM_CA_VARIABLES, *MORE_CA_VARIABLES):
        path = os.environ.get(name)
        if not path:
            continue
        if not Path(path).exists():
            raise SetupError(f"{name} names {path}, which does not exist", fix=f"correct {name}, or unset it")
        yield name, path


def _load(context: ssl.SSLContext, name: str, path: str) -> None:
    try:
        context.load_verify_locations(**{"capath" if Path(path).is_dir() else "cafile": path})
    except (ssl.SSLError, OSError) as error:
        raise SetupError(
            f"{name} names {path}, which is no file of certificates: {error.strerror or error}",
            fix=f"name a file of CA certificates in PEM in {name}",
        ) from error


@functools.lru_cache(maxsize=8)
def _ca_file(named: tuple[tuple[str, str], ...]) -> str | None:
    system = [path for name, path in named if name in SYSTEM_CA_VARIABLES] or _system_cas()
    paths = list(dict.fromkeys([*system, *(path for name, path in named if name not in SYSTEM_CA_VARIABLES)]))
    if not paths:
        return None
    if len(paths) == 1 and Path(paths[0]).is_file():
        return paths[0]
    for name, path in named:
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), name, path)
    return _joined(paths)


def _system_cas() -> list[str]:
    where = ssl.get_default_verify_paths()
    return [path for path in (where.cafile or where.capath,) if path]


def _joined(paths: list[str]) -> str:
    """Write the certificates of files and folders to one temporary file, which goes with this process.

    Where a process is killed, the next one that writes such a file removes what it left.
    """
    content = b"\n".join(_read(file) for path in paths for file in _files(Path(path)))
    folder, owner = system_folder(SetupError), os.getpid()
    with disk_errors(folder, SetupError):
        for left in left_in(folder, _CA_MARK):
            with suppress(OSError):
                if left.suffix == ".pem" and is_own_file(left.lstat()):
                    left.unlink()
        handle, name = tempfile.mkstemp(prefix=_CA_MARK + owner_mark(), suffix=".pem", dir=folder)
        atexit.register(lambda: Path(name).unlink(missing_ok=True) if os.getpid() == owner else None)
        with os.fdopen(handle, "wb") as out:
            out.write(content)
    return name


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SetupError(
            f"the certificates in {path} can't be read: {error.strerror}", fix="let this user read the file"
        ) from error


def _files(path: Path) -> list[Path]:
    """Return the files of certificates: the path itself, or those that OpenSSL would find in the folder, `HASH.0`."""
    return sorted(path.glob("*.[0-9]")) if path.is_dir() else [path]
