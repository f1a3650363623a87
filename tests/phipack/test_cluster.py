"""A release by a dask cluster: the bundles and the registry's state are those of one process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster

from tests.support.command_line import InProcess, write_project

ONNX_CELL = '[[cells]]\ntarget = "iphone-15"\nrecipe = "onnx-int4"\n'  # onnxruntime's import takes seconds


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A scheduler on loopback and two workers, in threads of this process."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path / "scratch"),
        silence_logs=logging.CRITICAL,
    ) as running:
        yield running.scheduler_address


def test_a_cluster_makes_what_one_process_makes(
    tmp_path: Path, tiny_folder: Path, migrated_database: Path, command: InProcess, cluster: str
) -> None:
    def shown(name: str, *options: str) -> list[dict[str, object]]:
        project = write_project(tmp_path / name, tiny_folder, migrated_database)
        file = ("--project", str(project / "phipack.toml"))
        one_cell = (project / "phipack.toml").read_text("utf-8").replace(ONNX_CELL, "")
        (project / "phipack.toml").write_text(one_cell, "utf-8")
        cells = command(*file, "--json", "release", *options).document["result"]["cells"]
        assert [(cell["built"], cell["measured"], cell["registered"]) for cell in cells] == [(True, True, True)]
        found = command(*file, "--json", "show", "tiny:1.0.0").document["result"]["cells"]
        return [{key: cell[key] for key in ("cell", "digest", "inputs")} for cell in found]

    assert shown("cluster", "--cluster", cluster) == shown("alone")


def test_workers_are_listed_with_what_nobody_can_do(project: Path, command: InProcess, cluster: str) -> None:
    file = ("--project", str(project / "phipack.toml"))
    found = command(*file, "--json", "workers", "--cluster", cluster).document["result"]
    assert len(found["workers"]) == 2
    assert found["unable"] == []
    versions = found["workers"][0]["packages"]
    assert {"gguf", "onnxruntime"} <= versions.keys()


def test_a_cluster_of_another_machine_without_tls_is_refused(project: Path, command: InProcess) -> None:
    file = ("--project", str(project / "phipack.toml"))
    done = command(*file, "workers", "--cluster", "tcp://192.0.2.1:8786", expect=1)
    assert "not encrypted" in done.stderr
