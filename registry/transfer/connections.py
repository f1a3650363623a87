"""Pools of connections over urllib3: TLS, proxies, keep-alive, and a way to stop all of them from another thread.

urllib3 has no call that wakes a thread which waits for a server. Shutting down its socket does, so each connection
keeps hold of its socket here. CAs and proxies are those of `network_settings.py`.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import threading
import urllib.parse
from base64 import b64encode
from contextlib import suppress
from typing import Any
from weakref import WeakSet

from urllib3 import PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from registry.transfer.network_settings import tls_context
from registry.transfer.pace import Pace, PacedResponse

_IDLE_LIMIT = 8  # connections to one host that are kept; more than a download uses


class ConnectionPools:
    """Pools by scheme and proxy, for any number of threads. After `cancel` they can't be used any more."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._managers: dict[tuple[str, str | None], PoolManager] = {}
        self._connections: WeakSet[_Connection] = WeakSet()

    def manager_for(self, url: str, proxy: str | None) -> PoolManager:
        """Return the manager of the pools for `url`. Raises `ValueError` where a URL has no pool of its kind."""
        scheme = urllib.parse.urlsplit(url).scheme
        with self._lock:
            manager = self._managers.get((scheme, proxy))
            if manager is None:
                manager = self._managers[scheme, proxy] = _new_manager(scheme, proxy)
        pool = manager.connection_from_url(url)
        kind = _SecureConnection if pool.scheme == "https" else _Connection
        pool.ConnectionCls = functools.partial(kind, self)  # type: ignore[assignment]  # it is only called
        return manager

    def watch(self, connection: _Connection) -> None:
        """Stop this connection too when `cancel` is called."""
        with self._lock:
            self._connections.add(connection)

    def cancel(self) -> None:
        """Shut down all connections, those that other threads wait on too."""
        self.cancelled.set()
        with self._lock:
            connections, managers = list(self._connections), list(self._managers.values())
        for connection in connections:
            connection.shut_down()
        for manager in managers:
            manager.clear()


class _Connection(HTTPConnection):
    """A connection that another thread can shut down, in a TLS handshake too."""

    def __init__(self, pools: ConnectionPools, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._pools = pools
        self.pace: Pace | None = None  # of the newest answer
        self._handshaking: socket.socket | None = None
        self._opened: Any = None  # a socket, or urllib3's stand-in for one (TLS within TLS)

    def response_class(self, *args: Any, **options: Any) -> PacedResponse:  # type: ignore[override]  # it is only called
        """Begin an answer, a proxy's to CONNECT too."""
        response = PacedResponse(*args, **options)
        self.pace = response.pace
        return response

    def connect(self) -> None:
        """Connect, through the proxy where there is one."""
        self._pools.watch(self)
        try:
            super().connect()
        finally:
            if self._handshaking is not None:
                self._handshaking.close()
                self._handshaking = None
        # A copy of `sock`, which http.client drops while the body of a last response is still being read.
        self._opened = self.sock
        if self._pools.cancelled.is_set():
            raise _cancelled()

    def shut_down(self) -> None:
        """Wake whoever sends or receives here."""
        for opened in (self._handshaking, getattr(self._opened, "socket", self._opened)):
            if opened is not None:
                with suppress(OSError):  # it is closed already
                    socket.socket.shutdown(opened, socket.SHUT_RDWR)  # below TLS, which belongs to the other thread

    def _new_conn(self) -> socket.socket:
        opened = super()._new_conn()
        # TLS takes the socket over and hands it back only after the handshake: another handle on it can end that.
        self._handshaking = opened.dup()
        if self._pools.cancelled.is_set():
            opened.close()
            raise _cancelled()
        return opened


class _SecureConnection(_Connection, HTTPSConnection):
    """The same over TLS."""


def _cancelled() -> OSError:
    return OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))


def _new_manager(scheme: str, proxy: str | None) -> PoolManager:
    # One TLS context for all connections: reading the system's certificates takes longer than a handshake.
    options: dict[str, Any] = {"maxsize": _IDLE_LIMIT}
    if scheme == "https":
        options["ssl_context"] = tls_context()
    if not proxy:
        return PoolManager(**options)
    parts = urllib.parse.urlsplit(proxy)
    headers = {"Proxy-Connection": "keep-alive"}
    if parts.username:
        secret = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = "Basic " + b64encode(secret.encode()).decode()
    return ProxyManager(proxy, proxy_headers=headers, **options)
