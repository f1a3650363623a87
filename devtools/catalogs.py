"""Catalogs for tests: releases of small bundles, published to a folder and served from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from devtools.bundles import CHECKPOINT, make_bundle
from registry.bundle.chunks import digest_in_chunks
from registry.bundle.folder import Bundle, file_entries, seal
from registry.catalog.choice import Query
from registry.catalog.client import CatalogTrust
from registry.catalog.rollout import ALL
from registry.catalog.signing import KeyFolder, create_keys
from registry.fetch import fetch_from_catalog
from registry.ledger.versions import CellVersion
from registry.publication import Order, Publication, publish
from registry.store.folder import FolderStore
from registry.transfer.bundle_download import DownloadOptions
from targets.devices import load_targets
from targets.references import Reference, Version
from targets.selection import Device

MODEL = "phi"


@dataclass
class Rows:
    """A registry in memory."""

    rows: list[CellVersion] = field(default_factory=list)

    def describe(self) -> str:
        return "a registry in memory"

    def exists(self) -> bool:
        return True

    def models(self) -> list[str]:
        return sorted({row.model for row in self.rows})

    def versions(self, model: str | None = None, *, copies: bool = False) -> list[CellVersion]:  # noqa: ARG002 - it has none
        return [row for row in self.rows if model in (None, row.model)]

    def in_channel(self, model: str, channel: str, cell: str | None = None) -> list[CellVersion]:
        return [row for row in self.versions(model) if channel in row.channels and cell in (None, row.cell)]


@dataclass
class Publisher:
    """Releases bundles to a store and publishes them to a catalog."""

    folder: Path
    registry: Rows = field(default_factory=Rows)

    def __post_init__(self) -> None:
        self.store = FolderStore(self.folder / "store")
        self.place = FolderStore(self.folder / "web")
        self.keys: KeyFolder = create_keys(self.folder / "keys", {})

    @property
    def root(self) -> Path:
        return self.folder / "keys" / "1.root.json"

    def release(
        self,
        version: str,
        files: Mapping[str, bytes] | None = None,
        cells: Mapping[str, str] | None = None,
        *,
        chunked: bool = False,
    ) -> Bundle:
        """Add a release and point production to it. `cells`: the target of each cell, by the cell's name."""
        bundle = make_bundle(self.folder / "bundles" / version, files or {"model.gguf": version.encode() * 1000})
        if chunked:
            known = {name: digest_in_chunks(bundle.file(name), range(0, 1 << 30, 1 << 16)) for name in files or ()}
            entries = file_entries(bundle.path, known)
            bundle = seal(bundle.path, bundle.manifest.model_copy(update={"files": entries}))
        self.add(version, bundle, cells)
        return bundle

    def add(self, version: str, bundle: Bundle, cells: Mapping[str, str] | None = None) -> None:
        """Add a release of a bundle and point production to it."""
        self.store.add_bundle(bundle)
        cells = cells or {"iphone-15": "iphone-15", "pixel-9": "pixel-9"}
        self.registry.rows = [replace(row, channels=()) if row.cell in cells else row for row in self.registry.rows]
        for cell, target in cells.items():
            self.registry.rows.append(
                CellVersion(
                    model=MODEL,
                    cell=cell,
                    registered_model=f"{MODEL}.{cell}",
                    number=len(self.registry.rows) + 1,
                    release=Version.parse(version),
                    digest=bundle.digest,
                    checkpoint=CHECKPOINT,
                    recipe=bundle.manifest.recipe.name,
                    target=target,
                    gates_passed=True,
                    evidence="sha256:" + "e" * 64,
                    run_id="run",
                    store=self.store.uri,
                    created=datetime.now(UTC),
                    channels=("production",),
                )
            )

    def point_back(self, version: str) -> None:
        """Point production to an older release."""
        self.registry.rows = [
            replace(row, channels=("production",) if str(row.release) == version else ()) for row in self.registry.rows
        ]

    def publish(self, percent: float = 100, order: Order | None = None) -> Publication:
        order = order or Order(MODEL, "production", round(percent * ALL / 100), new_catalog=True)
        return publish(self.registry, order, self.place, self.keys, targets=load_targets())


@dataclass
class Phone:
    """An installation that fetches from a catalog."""

    folder: Path
    url: str
    root: Path | None = None
    name: str = "a phone"

    def fetch(self, reference: str | None = None, device: Device | None = None) -> tuple[Bundle, str]:
        """Fetch in place of the installed bundle. Return the bundle and the release."""
        query = Query(
            None if reference is None else Reference.parse(reference),
            device or Device("iPhone15,4"),
            install_id=self.name,
        )
        trust, options = CatalogTrust(self.root, self.folder / "state"), DownloadOptions(replace=True)
        fetched = fetch_from_catalog(self.url, self.folder / "bundle", query, options, trust=trust)
        assert fetched.reference is not None
        return fetched.bundle, str(Reference.parse(fetched.reference).version)
