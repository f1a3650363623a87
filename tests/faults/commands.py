"""The commands whose points are walked: one entry each. To add one, say what it starts from, its words, and what holds.

What is prepared and what holds stands by subject in the other files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from registry.files import large_file
from registry.ledger.ledger import open_ledger
from registry.store.folder import FolderStore
from registry.transfer import download as transfer
from tests.faults import buckets, channels, databases, fetching, parts, publishing, releasing
from tests.faults.ground import Command, Ground, phipack
from tests.faults.pieces import NEW

_TO_OUT = ("-o", str(fetching.OUT), "--replace")

COMMANDS: Mapping[str, Command] = {
    "promote": Command(
        prepare=channels.prepare_releases,
        run=phipack("promote", "phi:1.1.0", "--to", "production"),
        after=channels.no_cell_is_without,
        done=channels.promoted,
        limit=4,
    ),
    "promote in PostgreSQL": Command(
        prepare=databases.prepare_releases_there,
        run=databases.there(phipack("promote", "phi:1.1.0", "--to", "production")),
        after=databases.there(channels.no_cell_is_without),
        done=databases.there(channels.promoted),
        service="postgresql",
        reset=databases.fresh_database,
        limit=4,
    ),
    "rollback": Command(
        prepare=channels.prepare_promoted,
        run=phipack("rollback", "phi"),
        after=channels.no_cell_is_without,
        done=channels.rolled_back,
        limit=3,
        retry=channels.roll_back_if_needed,
    ),
    "retire": Command(
        prepare=channels.prepare_releases,
        run=phipack("retire", "phi@pixel-9", "--from", "production"),
        after=channels.one_cell_may_be_out,
        done=channels.retired,
        limit=4,
        retry=channels.retire_if_needed,
    ),
    "register": Command(
        prepare=channels.prepare_first_release,
        run=channels.register("1.1.0"),
        after=channels.store_is_sound,
        done=channels.registered("1.0.0", "1.1.0"),
        tidy=channels.store_is_tidy,
        limit=4,
    ),
    "register the first": Command(
        prepare=channels.prepare_empty_registry,
        run=channels.register("1.0.0"),
        after=channels.store_is_sound,
        done=channels.registered("1.0.0"),
        tidy=channels.store_is_tidy,
        limit=3,
    ),
    "renew evidence": Command(
        prepare=channels.prepare_anew,
        run=channels.register("1.0.0"),
        after=channels.no_cell_is_believed_too_early,
        done=channels.registered("1.0.0"),
        tidy=channels.store_is_tidy,
        limit=3,
    ),
    "fetch a folder": Command(
        prepare=fetching.prepare_folder,
        run=phipack("fetch", "./new", *_TO_OUT),
        after=fetching.one_whole_bundle,
        done=fetching.fetched(NEW),
        tidy=fetching.out_is_alone,
    ),
    "fetch a version": Command(
        prepare=fetching.prepare_stored,
        run=phipack("fetch", "phi:1.0.0@pixel-9", *_TO_OUT),
        after=fetching.one_whole_bundle,
        done=fetching.fetched(),
        tidy=fetching.out_is_alone,
    ),
    "fetch from the web": Command(
        prepare=fetching.prepare_web,
        run=phipack("fetch", "{site}/new", *_TO_OUT, "--reuse", "other"),
        after=fetching.one_whole_bundle,
        done=fetching.fetched(NEW),
        tidy=fetching.out_is_alone,
        told=fetching.no_staging,
        limit=12,
    ),
    "publish": Command(
        prepare=publishing.prepare_publication,
        run=publishing.PUBLISH,
        after=publishing.catalog_is_whole,
        done=publishing.published,
        tidy=publishing.catalog_is_tidy,
        limit=5,
    ),
    "publish to S3": Command(
        prepare=buckets.there(buckets.prepare_publication_there),
        run=buckets.there(buckets.publish_there),
        after=buckets.there(buckets.catalog_there_is_whole),
        done=buckets.there(buckets.published_there),
        tidy=buckets.there(buckets.catalog_there_is_tidy),
        service="s3",
        reset=buckets.fresh_prefix,
        limit=3,
    ),
    "fetch from a catalog": Command(
        prepare=publishing.prepare_newer_catalog,
        run=publishing.phone_fetches,
        after=publishing.phone_has_one,
        done=publishing.phone_has_the_new_one,
        tidy=publishing.phone_is_tidy,
        limit=5,
    ),
    "fetch by a delta": Command(
        prepare=publishing.prepare_catalog_with_delta,
        run=publishing.phone_fetches,
        after=publishing.phone_has_one,
        done=publishing.phone_has_the_new_one,
        tidy=publishing.phone_is_tidy,
        limit=3,
    ),
    "split": Command(
        prepare=parts.prepare_split,
        run=parts.SPLIT,
        after=parts.parts_are_whole,
        done=parts.split_is_done,
        tidy=parts.parts_are_alone,
        limit=3,
    ),
    "join": Command(
        prepare=parts.prepare_join,
        run=parts.JOIN,
        after=fetching.one_whole_bundle,
        done=fetching.fetched(NEW),
        tidy=fetching.out_is_alone,
        limit=3,
    ),
    "keys init": Command(
        prepare=lambda _: None,
        run=phipack("keys", "init"),
        after=publishing.keys_or_none,
        done=publishing.keys_are_sound,
        tidy=publishing.keys_are_tidy,
        retry=publishing.make_keys_if_none,
    ),
    "keys rotate": Command(
        prepare=publishing.prepare_keys,
        run=phipack("keys", "rotate", "timestamp"),
        after=publishing.keys_are_sound,
        done=publishing.timestamp_is_rotated,
        tidy=publishing.keys_are_tidy,
    ),
    "gc": Command(
        prepare=releasing.prepare_garbage,
        run=phipack("gc"),
        after=channels.store_is_sound,
        done=releasing.collected,
        tidy=channels.store_is_tidy,
        limit=4,
    ),
    "release": Command(
        prepare=releasing.prepare_project,
        run=phipack("release"),
        after=channels.store_is_sound,
        done=releasing.released,
        tidy=releasing.workshop_is_tidy,
        imports=releasing.IMPORTS,
        limit=3,
    ),
}


def warm(place: Path, site: str) -> None:
    """Do most of it once, so that it is imported and compiled; shrink buffers, so that small files take many."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registered
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracked

    transfer.CHUNK_BYTES_LIMIT = 200_000  # type: ignore[attr-defined]
    large_file._BUFFER_BYTES = 1 << 16
    open_ledger(f"sqlite:///{place}/migrated.db", FolderStore(place / "store")).mlflow.connect()
    ground = Ground(place / "slot" / "warm", site)
    ground.folder.mkdir(parents=True)
    os.chdir(ground.folder)
    publishing.prepare_newer_catalog(ground)
    for store in (Registered, Tracked):
        for engine in store._engine_map.values():
            engine.dispose()
        store._engine_map.clear()
