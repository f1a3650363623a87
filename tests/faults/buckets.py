"""A store and a catalog in S3: each case has a prefix of its own, made from the slot's prepared one."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from devtools.services.seaweedfs import S3Server, running_seaweedfs
from phipack.__main__ import main
from registry.catalog.published_check import check_published
from registry.catalog.published_state import Published, published_digests, read_published
from registry.catalog.signing import open_keys
from registry.store.s3 import S3Store
from tests.faults.channels import CELLS, prepare_releases
from tests.faults.ground import Ground
from tests.faults.publishing import KEYS, prepare_keys

_BUCKET = "walks"
_Result = TypeVar("_Result")


@contextmanager
def start_s3() -> Iterator[S3Server]:
    """Run a server."""
    with (
        tempfile.TemporaryDirectory(prefix="phipack-walk-") as name,
        running_seaweedfs(Path(name), patience_seconds=0.2) as server,
    ):
        server.make_bucket(_BUCKET)
        yield server


def there(step: Callable[[Ground], _Result]) -> Callable[[Ground], _Result]:
    """Do a step with the server in the environment."""

    def with_the_server(ground: Ground) -> _Result:
        assert ground.s3 is not None
        os.environ.update(ground.s3.environment)
        return step(ground)

    return with_the_server


def fresh_prefix(ground: Ground) -> None:
    """The case's objects as they were prepared."""
    _copy(ground, _prefix(ground, "prepared"), _prefix(ground, "case"))


def prepare_publication_there(ground: Ground) -> None:
    """1.0.0 is published; production points at 1.1.0."""
    prepare_releases(ground)
    prepare_keys(ground)
    assert publish_there(ground) == 0
    assert main(["promote", "phi:1.1.0", "--to", "production"]) == 0
    _copy(ground, _prefix(ground, "case"), _prefix(ground, "prepared"))


def publish_there(ground: Ground) -> int:
    """Publish to the case's catalog."""
    return main(["publish", "phi", "--to", _catalog(ground).uri])


def catalog_there_is_whole(ground: Ground) -> None:
    """A client accepts it, all that it names is there and is what its name says; production is the old or the new."""
    place = _catalog(ground)
    published = read_published(place, open_keys(KEYS))
    check_published(place, open_keys(KEYS), published.paths)
    for digest in published_digests(place):
        with place.open_blob(digest) as blob:
            assert "sha256:" + hashlib.file_digest(blob, "sha256").hexdigest() == digest
    assert _production(published) in ("1.0.0", "1.1.0")


def published_there(ground: Ground) -> None:
    """Production is the new release."""
    catalog_there_is_whole(ground)
    assert _production(read_published(_catalog(ground), open_keys(KEYS))) == "1.1.0"


def catalog_there_is_tidy(ground: Ground) -> None:
    """What gc removes once it is old, the empty objects of those who died, is all that is left."""
    assert ground.s3 is not None
    place, client = _catalog(ground), ground.s3.client()
    place.sweep(0, dry_run=False)
    assert "Contents" not in client.list_objects_v2(Bucket=_BUCKET, Prefix=f"{place.prefix}/staging/")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=_BUCKET, Prefix=place.prefix)


def _production(published: Published) -> str:
    channel = published.channel("phi", "production")
    assert channel is not None
    (release,) = {channel.cells[cell][0].release for cell in CELLS}
    return release


def _catalog(ground: Ground) -> S3Store:
    return S3Store(_BUCKET, f"{_prefix(ground, 'case')}/catalog")


def _prefix(ground: Ground, kind: str) -> str:
    return f"{ground.folder.parent.name}/{kind}"


def _copy(ground: Ground, source: str, target: str) -> None:
    assert ground.s3 is not None
    client = ground.s3.client()
    for key in _keys(ground, target):
        client.delete_object(Bucket=_BUCKET, Key=key)
    for key in _keys(ground, source):
        place = target + key.removeprefix(source)
        client.copy_object(Bucket=_BUCKET, Key=place, CopySource={"Bucket": _BUCKET, "Key": key})


def _keys(ground: Ground, prefix: str) -> list[str]:
    assert ground.s3 is not None
    pages = ground.s3.client().get_paginator("list_objects_v2").paginate(Bucket=_BUCKET, Prefix=f"{prefix}/")
    return [one["Key"] for page in pages for one in page.get("Contents", ())]
