"""A scheduler and a worker with files of TLS, as on other machines: who has no certificate of their CA stays out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from distributed import Scheduler, Security, Worker

from builders.matrix.cluster.address import ClusterAddress, Credentials, parse_cluster
from builders.matrix.cluster.coordinator import run_graph_async
from devtools.stub_jobs import cells
from targets.errors import ClusterError, PhipackError
from tests.builders.matrix.cluster.clusters import QUICK, run, work_in, written
from tests.support.tls import write_certificate


@asynccontextmanager
async def encrypted(folder: Path, certificate: Path) -> AsyncIterator[str]:
    """Run a scheduler and a worker that show this certificate and ask for one it has signed; yield the address."""
    file = str(certificate)
    security = Security(
        require_encryption=True,
        **{f"tls_{part}_{kind}": file for part in ("scheduler", "worker", "client") for kind in ("cert", "key")},
        tls_ca_file=file,
    )
    page: dict[str, Any] = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    async with (
        Scheduler(protocol="tls", host="127.0.0.1", port=0, security=security, **page) as head,
        Worker(head.address, nthreads=1, security=security, local_directory=str(folder / "machine"), **page),
    ):
        yield head.address


def cluster(address: str, certificate: Path | None) -> ClusterAddress:
    return parse_cluster(address, credentials=Credentials(certificate, certificate, certificate))


def test_a_release_is_done_over_tls_with_files(tmp_path: Path) -> None:
    work, graph, own = work_in(tmp_path), cells(2), write_certificate(tmp_path / "own.pem")

    async def scenario() -> None:
        async with encrypted(tmp_path, own) as address:
            assert address.startswith("tls://")
            outcomes = await run_graph_async(graph, work, cluster(address, own), limits=QUICK)
            assert all(outcome.problem is None for outcome in outcomes)

    run(scenario())
    assert sorted(written(work)) == sorted(graph.by_name)


@pytest.mark.parametrize("shown", ["a stranger's", "none"])
def test_who_has_no_certificate_of_the_ca_stays_out(tmp_path: Path, shown: str) -> None:
    work, own = work_in(tmp_path), write_certificate(tmp_path / "own.pem")
    stranger = write_certificate(tmp_path / "stranger.pem") if shown == "a stranger's" else None

    async def scenario() -> PhipackError:
        async with encrypted(tmp_path, own) as address:
            with pytest.raises(PhipackError) as caught:
                await run_graph_async(cells(1), work, cluster(address, stranger), limits=QUICK)
            return caught.value

    error = run(scenario())
    assert isinstance(error, ClusterError), error
    assert "--cluster-ca" in error.fix
    assert written(work) == []
