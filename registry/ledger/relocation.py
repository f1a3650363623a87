"""Re-pointing a registry after its store was moved: what MLflow's database says of places, where digests agree.

MLflow keeps absolute places in three columns that its API never changes, and phipack one in a tag:

| place | table, column |
|---|---|
| a version's bundle, `phipack-STORE/sha256:…` | model_versions.source |
| the files of an experiment's new runs, `phipack-STORE/mlflow/MODEL` | experiments.artifact_location |
| the files of a run, `phipack-STORE/mlflow/MODEL/RUN/artifacts` | runs.artifact_uri |
| a version's store | model_version_tags, `phipack.store` |

So they are changed in the database itself, in one transaction, under the registry's lock: SQLite or PostgreSQL, of a
schema that phipack was tested with. The digest decides: a store's versions are re-pointed only if a bundle is no longer
there, and all of them, with their evidence, are in the store that is named now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.files.digests import digest_of_bytes
from registry.ledger.ledger import Ledger
from registry.ledger.mlflow_errors import foreign_errors
from registry.ledger.registration import EVIDENCE_NAME
from registry.ledger.sqlite_reader import KNOWN_REVISIONS
from registry.ledger.tracking import RUNS_FOLDER
from registry.ledger.versions import STORE_TAG, CellVersion
from registry.store.protocol import URI_PREFIX, Store
from registry.store.uris import open_store
from targets.errors import PhipackError, RegistryError, StoreUnreachableError
from targets.secrets import shown

if TYPE_CHECKING:
    from sqlalchemy import Connection

_COLUMNS = (("model_versions", "source"), ("experiments", "artifact_location"), ("runs", "artifact_uri"))


@dataclass(frozen=True)
class Relocation:
    """What was re-pointed to `store`, as it was before; in a dry run, what would be. `kept`: versions left alone."""

    store: str
    moved: tuple[CellVersion, ...]
    kept: int


def relocate(ledger: Ledger, *, dry_run: bool = False) -> Relocation:
    """Re-point every version of a store in which a bundle is missing, where the ledger's store has all of them.

    Raises:
        RegistryError: there is no registry; it is a server, or of an unknown schema; a bundle, or its evidence, is in
            neither place. Nothing was changed.
        StoreUnreachableError: whether a bundle is there can't be seen. Nothing was changed.
    """
    if ledger.uri.startswith("http"):
        raise RegistryError(
            f"MLflow at {shown(ledger.uri)}: its API changes no places",
            fix="name the server's own database (its --backend-store-uri) with --tracking-uri, where it can be reached",
        )
    if not ledger.exists():
        raise RegistryError(
            f"nothing is registered in {ledger.describe()}; nothing was changed",
            fix="name the registry with --tracking-uri",
        )
    with ledger.exclusive():
        rows = ledger.versions()
        moved = _moved(rows, ledger.store)
        _require_evidence(moved, ledger.store)
        if moved and not dry_run:
            _rewrite(ledger, {row.store for row in moved})
    if not dry_run:
        _look_again(ledger, moved)
    return Relocation(ledger.store.uri, tuple(moved), len(rows) - len(moved))


def _moved(rows: Sequence[CellVersion], store: Store) -> list[CellVersion]:
    """Return the versions that must be re-pointed: all of a store that has lost one, as the columns name stores.

    Raises `RegistryError` where a bundle of theirs is not in `store`.
    """
    left = {row.store for row in rows if _has_moved(row, store)}
    moved = [row for row in rows if row.store in left]
    for row in moved:
        if not store.has_bundle(row.digest):
            raise RegistryError(
                f"{row.reference}: bundle {row.digest} is in {row.store} alone, and others from there are only in"
                f" {store.uri}; nothing was changed",
                fix=f"copy what is left of {row.store} to {store.uri}, too",
            )
    return moved


def _has_moved(row: CellVersion, store: Store) -> bool:
    """Whether a version must be re-pointed. Raises `RegistryError` where its bundle is in neither store."""
    if row.store == store.uri or _has_bundle(row.store, row.digest):
        return False
    if store.has_bundle(row.digest):
        return True
    raise RegistryError(
        f"{row.reference}: bundle {row.digest} is neither in {row.store}, where it was registered, nor in {store.uri};"
        " nothing was changed",
        fix="name the store that has it now with --store",
    )


def _has_bundle(uri: str, digest: str) -> bool:
    try:
        return open_store(uri).has_bundle(digest)
    except StoreUnreachableError:
        raise
    except PhipackError:  # no store is of that form any more
        return False


def _require_evidence(rows: Iterable[CellVersion], store: Store) -> None:
    """Raise `RegistryError` where a version's evidence is not in the store, or is another one."""
    for row in rows:
        name = f"{RUNS_FOLDER}/{row.model}/{row.run_id}/artifacts/{EVIDENCE_NAME}"
        found = store.read_document(name)
        if found is None or digest_of_bytes(found.content) != row.evidence:
            raise RegistryError(
                f"{row.reference}: its evidence is not in {store.uri}, as {name}; nothing was changed",
                fix=f"copy the old store's folder {RUNS_FOLDER}/ there, too",
            )


def _rewrite(ledger: Ledger, stores: set[str]) -> None:
    import sqlalchemy

    with foreign_errors(ledger.uri):
        engine = sqlalchemy.create_engine(ledger.uri)
        try:
            with engine.begin() as connection:
                _require_known_schema(connection, ledger.uri)
                for old in stores:
                    _replace(connection, old, ledger.store.uri)
        finally:
            engine.dispose()


def _replace(connection: Connection, old: str, new: str) -> None:
    from sqlalchemy import text

    # MLflow shortens file:/// to file:/ where it joins paths.
    for written in {old, old.replace("file:///", "file:/", 1)}:
        before, after = f"{URI_PREFIX}{written}/", f"{URI_PREFIX}{new}/"
        for table, column in _COLUMNS:
            connection.execute(
                text(
                    f"UPDATE {table} SET {column} = :after || substr({column}, :rest)"  # noqa: S608 - names of our own
                    f" WHERE substr({column}, 1, :size) = :before"
                ),
                {"before": before, "after": after, "size": len(before), "rest": len(before) + 1},
            )
    connection.execute(
        text('UPDATE model_version_tags SET value = :new WHERE "key" = :tag AND value = :old'),
        {"new": new, "old": old, "tag": STORE_TAG},
    )


def _require_known_schema(connection: Connection, uri: str) -> None:
    from sqlalchemy import text

    revisions = {revision for (revision,) in connection.execute(text("SELECT version_num FROM alembic_version"))}
    if not revisions <= KNOWN_REVISIONS:
        raise RegistryError(
            f"{shown(uri)} is of an MLflow that phipack was not tested with: schema {', '.join(sorted(revisions))}",
            fix="use the MLflow that phipack[registry] installs",
        )


def _look_again(ledger: Ledger, moved: Sequence[CellVersion]) -> None:
    """Read what was re-pointed as everybody does: the rows, and the evidence through MLflow."""
    rows = {(row.model, row.cell, row.number): row for row in ledger.versions()} if moved else {}
    for row in moved:
        now = rows.get((row.model, row.cell, row.number))
        if now is None or (now.digest, now.store) != (row.digest, ledger.store.uri):
            raise RegistryError(f"{row.reference} was not re-pointed", fix="run the same command again")
        ledger.evidence(now)
