"""The connection to a cluster's scheduler, and the cluster of this machine alone."""

from __future__ import annotations

import asyncio
import logging
import ssl
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import dask
from distributed import Client, LocalCluster, Security
from distributed.comm.core import FatalCommClosedError
from distributed.versions import VersionMismatchWarning

from builders.matrix.cluster.address import ENCRYPTED, ClusterAddress
from builders.matrix.cluster.machine import MEMORY, memory_bytes
from builders.threads import thread_count
from targets.errors import ClusterError, ClusterUnreachableError

_LOOPBACK = "127.0.0.1"
_CLOSE_SECONDS = 10


@asynccontextmanager
async def connected(where: ClusterAddress, *, seconds: float) -> AsyncIterator[Any]:
    """Connect to a cluster's scheduler, or start one on this machine; yield dask's asynchronous client.

    Raises:
        ClusterError: the address is refused, or TLS is not set up.
        ClusterUnreachableError: no scheduler answers within `seconds`.
    """
    async with AsyncExitStack() as stack:
        if where.local_workers is not None:
            cluster = await stack.enter_async_context(_local(where.local_workers))
            address, security = cluster.scheduler_address, cluster.security
        else:
            address = where.resolve()
            security = _security(where, address)
        yield await stack.enter_async_context(_client(address, security, seconds))


@asynccontextmanager
async def _client(address: str, security: Security | None, seconds: float) -> AsyncIterator[Any]:
    with _refusals(address):
        client = Client(address, security=security, asynchronous=True, timeout=seconds, set_as_default=False)
    try:
        with _refusals(address):
            await client
        with client.as_current():
            yield client
    finally:
        await _closed(client)


@contextmanager
def _refusals(address: str) -> Iterator[None]:
    """Turn what dask raises while it connects into errors of ours."""
    fix = "check that the scheduler runs and is reachable from here, then run the same command again"
    with warnings.catch_warnings():
        # Which versions must agree is ours to say (machine.py): each worker is asked.
        warnings.simplefilter("ignore", VersionMismatchWarning)
        try:
            yield
        except (ssl.SSLError, FatalCommClosedError) as error:  # the latter is dask's, for a certificate
            raise ClusterError(f"{address}: TLS failed: {error}", fix=_TLS_FIX) from error
        except (TypeError, RuntimeError, FileNotFoundError) as error:  # dask's, for TLS that is not set up
            raise ClusterError(f"{address} can't be connected to: {error}", fix=_TLS_FIX) from error
        except (OSError, TimeoutError) as error:
            raise ClusterUnreachableError(f"no dask scheduler answers at {address}: {error}", fix=fix) from error


async def _closed(client: Any) -> None:
    """Close a client, also one whose scheduler no longer answers, and one that dask is connecting again meanwhile.

    That ends in a failed assertion of dask's where the scheduler is busy: why the client is closed would be lost.
    """
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await client.close()
    except (OSError, TimeoutError, AssertionError):
        return


_TLS_FIX = (
    "name the cluster's CA and this client's certificate: --cluster-ca, --cluster-cert and --cluster-key, "
    "or distributed.comm.tls in dask's configuration (docs/cluster.md)"
)


def _security(where: ClusterAddress, address: str) -> Security | None:
    """Return how to authenticate; None leaves it to dask's configuration."""
    files = where.credentials
    named = {"tls_ca_file": files.ca, "tls_client_cert": files.certificate, "tls_client_key": files.key}
    given = {name: str(path) for name, path in named.items() if path is not None}
    if urlsplit(address).scheme not in ENCRYPTED:
        if given:
            raise ClusterError(
                f"{address} is not encrypted, but TLS files are given", fix="use the scheduler's address tls://…"
            )
        return None
    return Security(require_encryption=True, **given)


@asynccontextmanager
async def _local(workers: int) -> AsyncIterator[Any]:
    """Run a scheduler and workers of one thread each on this machine, ended with the block.

    TLS with credentials of its own: everybody who has an account on this machine reaches its loopback interface.
    """
    with _local_settings(workers):
        async with LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host=_LOOPBACK,
            dashboard_address=f"{_LOOPBACK}:0",
            memory_limit=0,  # pages of files that are mapped would count; a job's memory is a resource
            resources={MEMORY: memory_bytes() / workers},
            security=True,
            silence_logs=logging.CRITICAL,
            asynchronous=True,
        ) as cluster:
            yield cluster


@contextmanager
def _local_settings(workers: int) -> Iterator[None]:
    threads = str(max(1, thread_count() // workers))
    numeric = {f"{name}_NUM_THREADS": threads for name in ("OMP", "MKL", "OPENBLAS")}
    with dask.config.set(
        {
            "distributed.nanny.pre-spawn-environ": numeric,
            "distributed.worker.daemon": False,  # jobs start processes of their own
            "distributed.scheduler.worker-ttl": "60s",
        }
    ):
        yield


def dashboard(client: Any) -> str | None:
    """Return the address of dask's page on a cluster, None where the scheduler has none."""
    try:
        link: str | None = client.dashboard_link
    except KeyError:
        return None
    return link
