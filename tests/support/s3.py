"""A real S3 server for tests, one a session; each test has a prefix of its own in its bucket."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from devtools.services.seaweedfs import S3Server, running_seaweedfs
from registry.store.s3 import S3Store

BUCKET = "phipack-tests"
_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS with a bucket."""
    with running_seaweedfs(tmp_path_factory.mktemp("seaweedfs"), patience_seconds=0.2) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture
def s3_store(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """An empty store, its server in the environment."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return S3Store(BUCKET, f"prefix {next(_numbers)}/store")
