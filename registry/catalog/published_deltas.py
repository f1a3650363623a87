"""Deltas to bundles that are published: from what phones of the channel have, where that saves enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry.catalog.documents import ChannelDocument, DeltaEntry, ReleaseDocument
from registry.catalog.published_state import Published
from registry.files.digests import digest_of_file
from registry.files.staging import disk_errors
from registry.files.temporary import temporary_folder
from registry.ledger.versions import CellVersion
from registry.store.protocol import Blob, Store
from targets.progress import Progress, Step

_LIMIT = 3  # older bundles of a cell that a delta is made from


@dataclass
class DeltaMaker:
    """Makes deltas to newly published bundles. `made`: by old and new bundle; kept when a publication is repeated."""

    published: Published
    made: dict[tuple[str, str], DeltaEntry | None]
    on_progress: Progress

    def add(
        self, before: ChannelDocument, releases: Mapping[str, ReleaseDocument], rows: Sequence[CellVersion]
    ) -> dict[str, ReleaseDocument]:
        """Return releases with deltas from the bundles that phones have of a channel, as it is published now."""
        documents = dict(releases)
        for row in rows:
            document = documents[str(row.release)]
            cell = document.cells[row.cell]
            deltas = list(cell.deltas)
            for old in self._bundles_of(before, row):
                if any(one.from_ == old for one in deltas):
                    continue
                if (entry := self._between(old, row)) is not None:
                    deltas.append(entry)
            changed = cell.model_copy(update={"deltas": tuple(deltas)})
            documents[str(row.release)] = document.model_copy(update={"cells": {**document.cells, row.cell: changed}})
        return documents

    def _between(self, old: str, row: CellVersion) -> DeltaEntry | None:
        """Return the delta to a version from an older bundle; None where it would not save enough."""
        if (old, row.digest) not in self.made:
            self.on_progress(Step("delta", 0, 1, "steps", row.cell))
            self.made[old, row.digest] = _delta(self.published.store, old, row.digest)
            self.on_progress(Step("delta", 1, 1, "steps", row.cell))
        return self.made[old, row.digest]

    def _bundles_of(self, channel: ChannelDocument, row: CellVersion) -> list[str]:
        """Return the bundles of a cell that a channel has, newest first, other than the new one."""
        found: list[str] = []
        for stage in channel.cells.get(row.cell, ())[:_LIMIT]:
            document = self.published.release(channel.model, stage.release)
            old = None if document is None else document.cells.get(row.cell)
            if old is not None and old.bundle != row.digest:
                found.append(old.bundle)
        return found


def _delta(store: Store, old: str, new: str) -> DeltaEntry | None:
    """Make a delta from two bundles of the store, and add it to the store; None where it would not save enough."""
    from registry.transfer.delta_writer import make_delta

    with temporary_folder("phipack-delta") as folder, disk_errors(folder):
        out = folder / "delta"
        if make_delta(store.materialise(old, folder / "old"), store.materialise(new, folder / "new"), out) is None:
            return None
        blob = Blob(digest_of_file(out), out.stat().st_size)
        with out.open("rb") as stream:
            store.put(stream, blob, what=str(out))
    return DeltaEntry.model_validate({"from": old, "blob": blob.digest, "bytes": blob.bytes})
