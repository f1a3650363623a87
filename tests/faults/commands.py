"""The commands whose points are walked: one entry each. To add one, say what it starts from, its words, and what holds.

What is prepared and what holds stands by subject in the other files.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from registry.files import large_file
from registry.ledger.ledger import open_ledger
from registry.store import s3, s3_upload
from registry.store.folder import FolderStore
from registry.transfer import download as transfer
from tests.faults import (
    buckets,
    channels,
    databases,
    fetching,
    importing,
    making,
    parts,
    publishing,
    reading,
    releasing,
    relocating,
    reports,
    serving,
)
from tests.faults.ground import Command, Ground, phipack
from tests.faults.pieces import NEW
from tests.support.mlflow_schema import make_schema_once

_TO_OUT = ("-o", str(fetching.OUT), "--replace")

_FOLDERS: Mapping[str, Command] = {
    "promote": Command(
        of="promote",
        prepare=channels.prepare_releases,
        run=phipack("promote", "phi:1.1.0", "--to", "production"),
        after=channels.no_cell_is_without,
        done=channels.promoted,
        limit=3,
    ),
    "promote in PostgreSQL": Command(
        of="promote",
        prepare=databases.prepare_releases_there,
        run=databases.there(phipack("promote", "phi:1.1.0", "--to", "production")),
        after=databases.there(channels.no_cell_is_without),
        done=databases.there(channels.promoted),
        service="postgresql",
        reset=databases.fresh_database,
        limit=0,
    ),
    "rollback": Command(
        of="rollback",
        prepare=channels.prepare_promoted,
        run=phipack("rollback", "phi"),
        after=channels.no_cell_is_without,
        done=channels.rolled_back,
        limit=3,
        retry=channels.roll_back_if_needed,
    ),
    "retire": Command(
        of="retire",
        prepare=channels.prepare_releases,
        run=phipack("retire", "phi@pixel-9", "--from", "production"),
        after=channels.one_cell_may_be_out,
        done=channels.retired,
        limit=0,
        retry=channels.retire_if_needed,
    ),
    "register": Command(
        of="release",
        prepare=channels.prepare_first_release,
        run=channels.register("1.1.0"),
        after=channels.store_is_sound,
        done=channels.registered("1.0.0", "1.1.0"),
        tidy=channels.store_is_tidy,
        limit=3,
    ),
    "register the first": Command(
        of="release",
        prepare=channels.prepare_empty_registry,
        run=channels.register("1.0.0"),
        after=channels.store_is_sound,
        done=channels.registered("1.0.0"),
        tidy=channels.store_is_tidy,
        limit=0,
    ),
    "renew evidence": Command(
        of="release",
        prepare=channels.prepare_anew,
        run=channels.register("1.0.0"),
        after=channels.no_cell_is_believed_too_early,
        done=channels.registered("1.0.0"),
        tidy=channels.store_is_tidy,
        limit=3,
    ),
    "fetch a folder": Command(
        of="fetch",
        prepare=fetching.prepare_folder,
        run=phipack("fetch", "./new", *_TO_OUT),
        after=fetching.one_whole_bundle,
        done=fetching.fetched(NEW),
        tidy=fetching.out_is_alone,
        limit=4,
    ),
    "fetch a version": Command(
        of="fetch",
        prepare=fetching.prepare_stored,
        run=phipack("fetch", "phi:1.0.0@pixel-9", *_TO_OUT),
        after=fetching.one_whole_bundle,
        done=fetching.fetched(),
        tidy=fetching.out_is_alone,
        limit=3,
    ),
    "fetch from the web": Command(
        of="fetch",
        prepare=fetching.prepare_web,
        run=phipack("fetch", "{site}/new", *_TO_OUT, "--reuse", "other"),
        after=fetching.one_whole_bundle,
        done=fetching.fetched(NEW),
        tidy=fetching.out_is_alone,
        told=fetching.no_staging,
        limit=6,
    ),
    "publish": Command(
        of="publish",
        prepare=publishing.prepare_publication,
        run=publishing.PUBLISH,
        after=publishing.catalog_is_whole,
        done=publishing.published,
        tidy=publishing.catalog_is_tidy,
        limit=3,
    ),
    "publish --refresh": Command(
        of="publish",
        prepare=publishing.prepare_first_publication,
        run=publishing.REFRESH,
        after=publishing.catalog_is_whole,
        done=publishing.refreshed,
        tidy=publishing.catalog_is_tidy,
        limit=0,
    ),
    "publish to S3": Command(
        of="publish",
        prepare=buckets.there(buckets.prepare_publication_there),
        run=buckets.there(buckets.publish_there),
        after=buckets.there(buckets.catalog_there_is_whole),
        done=buckets.there(buckets.published_there),
        tidy=buckets.there(buckets.catalog_there_is_tidy),
        service="s3",
        reset=buckets.fresh_prefix,
        limit=0,
    ),
    "fetch from a catalog": Command(
        of="fetch",
        prepare=publishing.prepare_newer_catalog,
        run=publishing.phone_fetches,
        after=publishing.phone_has_one,
        done=publishing.phone_has_the_new_one,
        tidy=publishing.phone_is_tidy,
        limit=3,
    ),
    "fetch by a delta": Command(
        of="fetch",
        prepare=publishing.prepare_catalog_with_delta,
        run=publishing.phone_fetches,
        after=publishing.phone_has_one,
        done=publishing.phone_has_the_new_one,
        tidy=publishing.phone_is_tidy,
        limit=3,
    ),
    "split": Command(
        of="split",
        prepare=parts.prepare_split,
        run=parts.SPLIT,
        after=parts.parts_are_whole,
        done=parts.split_is_done,
        tidy=parts.parts_are_alone,
        limit=3,
    ),
    "join": Command(
        of="join",
        prepare=parts.prepare_join,
        run=parts.JOIN,
        after=fetching.one_whole_bundle,
        done=fetching.fetched(NEW),
        tidy=fetching.out_is_alone,
        limit=3,
    ),
    "keys init": Command(
        of="keys init",
        prepare=lambda _: None,
        run=phipack("keys", "init"),
        after=publishing.keys_or_none,
        done=publishing.keys_are_sound,
        tidy=publishing.keys_are_tidy,
        retry=publishing.make_keys_if_none,
    ),
    "keys rotate": Command(
        of="keys rotate",
        prepare=publishing.prepare_keys,
        run=phipack("keys", "rotate", "timestamp"),
        after=publishing.keys_are_sound,
        done=publishing.timestamp_is_rotated,
        tidy=publishing.keys_are_tidy,
        limit=3,
    ),
    "keys show --renew": Command(
        of="keys show",
        prepare=publishing.prepare_keys,
        run=phipack("keys", "show", "--renew"),
        after=publishing.keys_are_sound,
        done=publishing.root_is_renewed,
        tidy=publishing.keys_are_tidy,
        limit=0,
    ),
    "registry relocate": Command(
        of="registry relocate",
        prepare=relocating.prepare_moved,
        run=relocating.RELOCATE,
        after=relocating.all_or_none,
        done=relocating.relocated,
        limit=3,
    ),
    "doctor": Command(
        of="doctor",
        prepare=channels.prepare_releases,
        run=reading.look_at_the_store,
        after=channels.store_is_sound,
        done=channels.store_is_sound,
        tidy=channels.store_is_tidy,
        limit=0,
    ),
    "serve": Command(
        of="serve",
        prepare=publishing.prepare_first_publication,
        run=serving.serve_a_client,
        after=serving.catalog_is_as_it_was,
        done=serving.catalog_is_as_it_was,
        tidy=publishing.catalog_is_tidy,
        limit=3,
        imports=serving.IMPORTS,
    ),
    "gc": Command(
        of="gc",
        prepare=releasing.prepare_garbage,
        run=phipack("gc"),
        after=channels.store_is_sound,
        done=releasing.collected,
        tidy=channels.store_is_tidy,
        limit=3,
    ),
    "report": Command(
        of="report",
        prepare=reports.prepare_older,
        run=phipack("report", "phi:1.1.0", "-o", str(reports.PAGE)),
        after=reports.page_or_older,
        done=reports.reported,
        tidy=reports.page_is_alone,
        imports=reports.IMPORTS,
        limit=2,
    ),
    "evidence import": Command(
        of="evidence import",
        prepare=importing.prepare_measured,
        run=phipack(*importing.IMPORT),
        after=importing.the_old_one_is_there,
        done=importing.both_are_there,
        tidy=channels.store_is_tidy,
        limit=2,
    ),
    "release": Command(
        of="release",
        prepare=releasing.prepare_project,
        run=phipack("release"),
        after=channels.store_is_sound,
        done=releasing.released,
        tidy=releasing.workshop_is_tidy,
        imports=(*making.IMPORTS, *reports.IMPORTS),
        limit=0,
    ),
    "release --finish": Command(
        of="release",
        prepare=releasing.prepare_jobs_done,
        run=phipack("release", "--finish"),
        after=channels.store_is_sound,
        done=releasing.released,
        tidy=releasing.workshop_is_tidy,
        imports=(*making.IMPORTS, *reports.IMPORTS),
        limit=0,
    ),
}


_S3: Mapping[str, Command] = {
    "register in S3": Command(
        of="release",
        prepare=buckets.prepared_there(buckets.prepare_large),
        run=buckets.stored_there(channels.register("1.1.0")),
        after=buckets.stored_there(channels.store_is_sound),
        done=buckets.stored_there(channels.registered("1.0.0", "1.1.0")),
        tidy=buckets.stored_there(channels.store_is_tidy),
        service="s3",
        reset=buckets.fresh_prefix,
        limit=0,
    ),
    "release into S3": Command(
        of="release",
        prepare=buckets.prepared_there(releasing.prepare_project),
        run=buckets.stored_there(phipack("release")),
        after=buckets.stored_there(channels.store_is_sound),
        done=buckets.stored_there(releasing.released),
        tidy=buckets.stored_there(releasing.workshop_is_tidy),
        service="s3",
        reset=buckets.fresh_prefix,
        imports=making.IMPORTS,
        limit=0,
    ),
    "gc in S3": Command(
        of="gc",
        prepare=buckets.prepared_there(releasing.prepare_garbage),
        run=buckets.stored_there(releasing.collect_at_once),
        after=buckets.stored_there(channels.store_is_sound),
        done=buckets.stored_there(releasing.collected),
        tidy=buckets.stored_there(channels.store_is_tidy),
        service="s3",
        reset=buckets.fresh_prefix,
        limit=0,
    ),
    "fetch a version from S3": Command(
        of="fetch",
        prepare=buckets.prepared_there(fetching.prepare_stored),
        run=buckets.stored_there(phipack("fetch", "phi:1.0.0@pixel-9", *_TO_OUT)),
        after=buckets.stored_there(fetching.one_whole_bundle),
        done=buckets.stored_there(fetching.fetched()),
        tidy=fetching.out_is_alone,
        told=fetching.no_staging,
        service="s3",
        reset=buckets.fresh_prefix,
        limit=0,
    ),
    "serve from S3": Command(
        of="serve",
        prepare=buckets.there(buckets.prepare_publication_there),
        run=buckets.there(buckets.serve_there),
        after=buckets.there(buckets.catalog_there_is_whole),
        done=buckets.there(buckets.catalog_there_is_whole),
        tidy=buckets.there(buckets.catalog_there_is_tidy),
        service="s3",
        reset=buckets.fresh_prefix,
        limit=0,
        imports=serving.IMPORTS,
    ),
}

COMMANDS: Mapping[str, Command] = {**_FOLDERS, **making.COMMANDS, **_S3}

# Commands that write, and are not walked, each with the reason.
UNWALKED: Mapping[str, str] = {
    "measure": "what it writes is on a phone: tests/builders/devices; its --out is written as that of validate",
    "export": "what it runs is optimum, in an environment that pip downloads; its folder is staged as that of convert",
}


def warm(place: Path, site: str) -> None:
    """Do most of it once, so that it is imported and compiled; shrink buffers, so that small files take many."""
    transfer.CHUNK_BYTES_LIMIT = 200_000  # type: ignore[attr-defined]
    large_file._BUFFER_BYTES = 1 << 16
    s3.PART_BYTES = s3_upload.PART_BYTES = buckets.PART_BYTES  # type: ignore[attr-defined]
    make_schema_once(synced=True)
    open_ledger(f"sqlite:///{place}/migrated.db", FolderStore(place / "store")).mlflow.connect()
    ground = Ground(place / "slot" / "warm", site)
    ground.folder.mkdir(parents=True)
    os.chdir(ground.folder)
    publishing.prepare_newer_catalog(ground)
    close_databases()


def close_databases() -> None:
    """Close MLflow's connections, which no fork may share. What its engines compiled stays."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registered
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracked

    for store in (Registered, Tracked):
        for engine in store._engine_map.values():
            engine.dispose()
