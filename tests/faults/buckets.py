"""A store and a catalog in S3: each case has a prefix of its own, made from the slot's prepared one."""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from devtools.bundles import make_bundle
from devtools.services.seaweedfs import S3Server, running_seaweedfs
from phipack.__main__ import main
from registry.catalog.published_check import check_published
from registry.catalog.published_state import Published, published_digests, read_published
from registry.catalog.signing import open_keys
from registry.store.s3 import S3Store
from tests.faults import channels, serving
from tests.faults.channels import CELLS, prepare_releases
from tests.faults.ground import Ground, Step
from tests.faults.publishing import KEYS, prepare_keys
from tests.faults.stores import nothing_is_staged

_BUCKET = "walks"
PART_BYTES = 5 << 20  # the least that S3 takes
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
    return main(["publish", "phi", "--to", _catalog(ground).uri, "--new-catalog"])


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
    """Nothing is half-written there, and no probe is left by those who died."""
    assert nothing_is_staged(_catalog(ground))


def serve_there(ground: Ground) -> int:
    """Serve the case's catalog."""
    return serving.serve_from(_catalog(ground), ground)


# --- a store in S3


def stored_there(step: Callable[[Ground], _Result]) -> Callable[[Ground], _Result]:
    """Do a step with the store in the case's prefix."""

    def with_the_store(ground: Ground) -> _Result:
        os.environ["PHIPACK_STORE"] = S3Store(_BUCKET, f"{_prefix(ground, 'case')}/store").uri
        return step(ground)

    return there(with_the_store)


def prepared_there(step: Step) -> Step:
    """Prepare with the store in S3, and keep what it has then, which every case begins with."""

    def prepare(ground: Ground) -> None:
        _empty(ground, _prefix(ground, "case"))
        step(ground)
        _copy(ground, _prefix(ground, "case"), _prefix(ground, "prepared"))

    return stored_there(prepare)


def large(folder: Path, release: str) -> None:
    """A bundle whose weights are sent in three parts (`commands.warm` makes parts smaller)."""
    make_bundle(folder, {"model.gguf": random.Random(release).randbytes(PART_BYTES * 5 // 2), "tokenizer.json": b"{}"})


def prepare_large(ground: Ground) -> None:
    """1.0.0 is registered, and the bundle of 1.1.0 is here: its weights are sent in parts."""
    channels.prepare_registry(ground, "1.0.0")
    channels.register("1.0.0")(ground)
    large(Path("bundles/1.1.0"), "1.1.0")


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
    _empty(ground, target)
    for key in _keys(ground, source):
        place = target + key.removeprefix(source)
        client.copy_object(Bucket=_BUCKET, Key=place, CopySource={"Bucket": _BUCKET, "Key": key})


def _empty(ground: Ground, prefix: str) -> None:
    assert ground.s3 is not None
    client = ground.s3.client()
    for key in _keys(ground, prefix):
        client.delete_object(Bucket=_BUCKET, Key=key)
    uploads = client.list_multipart_uploads(Bucket=_BUCKET, Prefix=f"{prefix}/")
    for one in uploads.get("Uploads", ()):
        client.abort_multipart_upload(Bucket=_BUCKET, Key=one["Key"], UploadId=one["UploadId"])


def _keys(ground: Ground, prefix: str) -> list[str]:
    assert ground.s3 is not None
    pages = ground.s3.client().get_paginator("list_objects_v2").paginate(Bucket=_BUCKET, Prefix=f"{prefix}/")
    return [one["Key"] for page in pages for one in page.get("Contents", ())]
