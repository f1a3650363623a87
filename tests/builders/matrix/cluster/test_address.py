"""Which clusters are taken, and which are refused before anything connects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders.matrix.cluster.address import Credentials, parse_cluster
from builders.matrix.cluster.machine import Identity
from builders.matrix.cluster.needs import WorkerResources, label_resource, resources_of, somebody_can, why_nobody
from builders.matrix.graph import Job, Needs
from targets.errors import ClusterError

GB = 10**9


@pytest.mark.parametrize(
    "address",
    ["tls://scheduler:8786", "wss://scheduler:443", "tcp://127.0.0.1:8786", "tcp://[::1]:8786", "tcp://localhost:1"],
)
def test_an_address_is_taken_that_is_encrypted_or_of_this_machine(address: str) -> None:
    assert parse_cluster(address).resolve() == address


@pytest.mark.parametrize("address", ["tcp://scheduler:8786", "tcp://10.0.0.1:8786", "ws://scheduler:80"])
def test_plaintext_to_another_machine_needs_a_flag(address: str, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"type": "Scheduler", "id": "x", "address": address, "workers": {}}))
    for text in (address, str(file)):
        with pytest.raises(ClusterError, match="not encrypted") as info:
            parse_cluster(text).resolve()
        assert "--cluster-plaintext" in info.value.fix
        assert parse_cluster(text, plaintext=True).resolve() == address


def test_a_scheduler_file_is_read_again(tmp_path: Path) -> None:
    """A scheduler that was started again has another port."""
    file = tmp_path / "scheduler.json"
    where = parse_cluster(str(file))
    for port in (1, 2):
        file.write_text(json.dumps({"address": f"tcp://127.0.0.1:{port}"}))
        assert where.resolve() == f"tcp://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "can't be read"), ("{", "is not JSON"), ("[]", "names no address"), ('{"address": 1}', "names no address")],
)
def test_what_is_no_scheduler_file_is_said(tmp_path: Path, content: str | None, problem: str) -> None:
    file = tmp_path / "scheduler.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ClusterError, match=problem):
        parse_cluster(str(file)).resolve()


@pytest.mark.parametrize("text", ["http://scheduler:8786", "tcp://scheduler", "tcp://:8786", "tls://a:b", "local:0"])
def test_what_is_no_cluster_is_said(text: str) -> None:
    with pytest.raises(ClusterError):
        parse_cluster(text)


def test_local_workers_are_counted() -> None:
    assert parse_cluster("local:12").local_workers == 12
    assert parse_cluster("tls://a:1", credentials=Credentials(ca=Path("ca.pem"))).credentials.ca == Path("ca.pem")


def test_a_job_takes_its_needs_as_resources() -> None:
    needs = Needs(labels=frozenset({"macos", "android:R5cT"}), memory_bytes=2 * GB, disk_bytes=GB)
    needed = resources_of(Job("x", "build", "0", needs=needs), {"gguf": "0.19.0"}, Identity("ab" * 32, "3.11", "1"))
    assert needed == {
        "phipack-abababababab-py3.11": 1,
        "gguf==0.19.0": 1,
        "MACOS": 1,
        "ANDROID:R5cT": 1,
        "memory": 2 * GB,
        "disk": GB,
    }
    assert label_resource("macos") == "MACOS"


def test_why_nobody_can_names_what_is_missing_everywhere_or_the_nearest() -> None:
    needed = {"memory": 8.0 * GB, "disk": 4.0 * GB}
    big, small = WorkerResources("big", {"memory": 16.0 * GB, "disk": 1.0 * GB}), WorkerResources("small", {})
    assert not somebody_can(needed, [big, small])
    assert why_nobody(needed, [big, small]) == "no worker has 4.0 GB of disk: the most is 1.0 GB of disk"
    roomy = WorkerResources("roomy", {"memory": 1.0 * GB, "disk": 9.0 * GB})
    assert why_nobody(needed, [big, roomy]) == "big has no 4.0 GB of disk; roomy has no 8.0 GB of memory"
    paused = WorkerResources("paused", needed, running=False)
    assert not somebody_can(needed, [paused])
    assert "paused takes no tasks" in why_nobody(needed, [paused])
    assert why_nobody(needed, []) == "the cluster has no workers"
