"""What a real MLflow server with accounts serves through the artifact plugin, and what it refuses.

Two stores are served, a folder and a prefix on S3, each with a registered bundle. The stranger is an account without
permissions. As every account it may create models and experiments of its own, and name any place in them.
"""

from __future__ import annotations

import itertools
import json
import secrets
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from devtools.bundles import make_bundle
from devtools.services.seaweedfs import S3Server
from registry.bundle.folder import Bundle
from registry.ledger.ledger import open_ledger
from registry.ledger.versions import CellVersion
from registry.store.protocol import Store
from tests.support.mlflow_account import MlflowAccount
from tests.support.registrations import entry
from tests.support.s3 import BUCKET

SECRET = b"what only the server may read"
OTHER_BUCKET = "phipack-not-served"
KINDS = ("file", "s3")
REFUSED = (400, 403)
_numbers = itertools.count()


@dataclass(frozen=True)
class Site:
    """A server, two of its accounts, and what lies in the stores that it serves, by their kind."""

    administrator: MlflowAccount
    stranger: MlflowAccount
    home: Path
    s3: S3Server
    stores: dict[str, Store]
    bundle: Bundle
    versions: dict[str, CellVersion]

    def put_secret(self, uri: str, name: str) -> None:
        """Put the secret below a folder of the server's machine, or below a place on S3."""
        place = urllib.parse.urlsplit(uri)
        if place.scheme == "phipack-s3":
            self.s3.client().put_object(Bucket=place.netloc, Key=f"{place.path}/{name}".lstrip("/"), Body=SECRET)
        else:
            path = Path(urllib.parse.unquote(place.path)) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(SECRET)


@pytest.fixture(scope="module")
def site(server_with_accounts: Any, s3_server: S3Server) -> Iterator[Site]:
    server = server_with_accounts
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        s3_server.make_bucket(OTHER_BUCKET)
        bundle = make_bundle(server.home / "bundle")
        versions = {}
        for kind, store in server.stores.items():
            store.add_bundle(bundle)
            ledger = open_ledger(f"sqlite:///{server.database}", store)
            versions[kind] = ledger.register(replace(entry(bundle), model=f"phi-{kind}"))
        stranger = server.administrator.create(f"passer-by-{secrets.token_hex(4)}", secrets.token_hex(16))
        yield Site(server.administrator, stranger, server.home, s3_server, server.stores, bundle, versions)


def version_files(account: MlflowAccount, source: str, path: str) -> tuple[int, bytes]:
    """Register a version with this source in a model of the account's own, and ask for one of its files."""
    name = f"own-{next(_numbers)}"
    account.api("registered-models/create", name=name)
    content = json.dumps({"name": name, "source": source}).encode()
    status, answer = account.post("api/2.0/mlflow/model-versions/create", content)
    if status != 200:
        return status, answer
    return account.get("model-versions/get-artifact", name=name, version="1", path=path)


def new_run(account: MlflowAccount, location: str) -> tuple[str, str]:
    """Start a run in a new experiment with this artifact location; return its ID and its artifact URI."""
    experiment = account.api("experiments/create", name=f"own-{next(_numbers)}", artifact_location=location)
    run = account.api("runs/create", experiment_id=experiment["experiment_id"])["run"]["info"]
    return run["run_id"], run["artifact_uri"]


PLACES: dict[str, Callable[[Site], str]] = {
    "a folder of the server": lambda site: f"phipack-file://{site.home}/secrets".replace(" ", "%20"),
    "its short form": lambda site: f"phipack-file:{site.home}/secrets".replace(" ", "%20"),
    "the folder above a store": lambda site: f"phipack-file://{site.home}".replace(" ", "%20"),
    "the store's own folder": lambda site: f"phipack-{site.stores['file'].uri}",
    "a folder of the store": lambda site: f"phipack-{site.stores['file'].uri}/mlflow",
    "a folder named as the store's beginning": lambda site: f"phipack-{site.stores['file'].uri}-2",
    "a run's files": lambda site: f"phipack-{site.stores['file'].uri}/mlflow/phi-file/{'ab' * 16}/artifacts",
    "another bucket": lambda _: f"phipack-s3://{OTHER_BUCKET}/secrets",
    "another bucket's top": lambda _: f"phipack-s3://{OTHER_BUCKET}",
    "the bucket above a store": lambda _: f"phipack-s3://{BUCKET}",
    "another prefix": lambda _: f"phipack-s3://{BUCKET}/secrets",
    "a run's files on S3": lambda site: f"phipack-{site.stores['s3'].uri}/mlflow/phi-s3/{'ab' * 16}/artifacts",
    "a prefix of the store": lambda site: f"phipack-{site.stores['s3'].uri}/mlflow",
    "a prefix named as the store's beginning": lambda site: f"phipack-{site.stores['s3'].uri}-2",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_versions_source_opens_nothing_but_a_bundle(site: Site, place: str) -> None:
    source = PLACES[place](site)
    site.put_secret(source, "secret.txt")
    status, answer = version_files(site.stranger, source, "secret.txt")
    assert SECRET not in answer
    assert status in REFUSED


def test_a_versions_source_does_not_open_etc(site: Site) -> None:
    for source in ("phipack-file:///etc", "phipack-file:/etc", "phipack-file:///etc/"):
        status, answer = version_files(site.stranger, source, "passwd")
        assert b"root:" not in answer
        assert status in REFUSED


@pytest.mark.parametrize("place", PLACES)
def test_an_experiments_location_opens_nothing(site: Site, place: str) -> None:
    """Not for reading and not for writing. MLflow adds /RUN/artifacts to the location."""
    location = PLACES[place](site)
    run, uri = new_run(site.stranger, location)
    site.put_secret(uri, "secret.txt")
    for path, parameters in (
        ("get-artifact", {"run_id": run, "path": "secret.txt"}),
        ("ajax-api/2.0/mlflow/artifacts/list", {"run_id": run}),
    ):
        status, answer = site.stranger.get(path, **parameters)
        assert SECRET not in answer
        assert b"secret.txt" not in answer
        assert status in REFUSED
    status, _ = site.stranger.post("ajax-api/2.0/mlflow/upload-artifact", b"x", run_uuid=run, path="new.txt")
    assert status in REFUSED
    assert not list(site.home.rglob("new.txt"))
    assert not [key for bucket in (BUCKET, OTHER_BUCKET) for key in keys(site, bucket) if key.endswith("new.txt")]


def run_place(site: Site, kind: str) -> str:
    version = site.versions[kind]
    return f"phipack-{site.stores[kind].uri}/mlflow/{version.model}/{version.run_id}/artifacts"


def keys(site: Site, bucket: str) -> list[str]:
    pages = site.s3.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [row["Key"] for page in pages for row in page.get("Contents", ())]


@pytest.mark.parametrize("kind", KINDS)
def test_a_runs_files_are_served_to_its_readers_only(site: Site, kind: str) -> None:
    """An account that knows a run's ID but may not read the run does not get its evidence in another way."""
    run = site.versions[kind].run_id
    assert version_files(site.stranger, run_place(site, kind), "evidence.json")[0] == 403
    own, _ = new_run(site.stranger, f"phipack-{site.stores[kind].uri}/mlflow/phi-{kind}")
    for names in ({"run_id": run}, {"run_uuid": run}, {"run_id": own, "run_uuid": run}):
        status, answer = site.stranger.get("get-artifact", path="evidence.json", **names)
        assert b"kl_mean" not in answer
        assert status != 200
    assert site.administrator.get("get-artifact", run_id=run, path="evidence.json")[0] == 200


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_registered_is_served(site: Site, kind: str) -> None:
    version, weights = site.versions[kind], (site.bundle.path / "model.gguf").read_bytes()
    name = f"{version.model}.{version.cell}"
    asked = site.administrator.get
    by_version = asked("model-versions/get-artifact", name=name, version=str(version.number), path="model.gguf")
    assert by_version == (200, weights)
    assert asked("get-artifact", run_id=version.run_id, path="bundle/model.gguf") == (200, weights)
    for path, expected in (("", {"bundle", "evidence.json", "manifest.json"}), ("bundle/model.mlpackage", None)):
        status, answer = asked("ajax-api/2.0/mlflow/artifacts/list", run_id=version.run_id, path=path)
        assert status == 200
        assert {file["path"] for file in json.loads(answer)["files"]} == (expected or {"bundle/model.mlpackage/Data"})
    assert site.stranger.get("model-versions/get-artifact", name=name, version="1", path="model.gguf")[0] == 403


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_writes_to_no_store(site: Site, kind: str) -> None:
    run = site.versions[kind].run_id
    status, _ = site.administrator.post("ajax-api/2.0/mlflow/upload-artifact", b"x", run_uuid=run, path="evidence.json")
    assert status == 403
    assert b"kl_mean" in site.administrator.get("get-artifact", run_id=run, path="evidence.json")[1]
