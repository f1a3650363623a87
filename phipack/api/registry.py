"""`Registry`: everything that needs MLflow or a store, as one object.

registry = phipack.Registry.from_project("phipack.toml")
report = registry.release("phipack.toml")
registry.promote("phi-3-mini:1.0.0", to="production", reason="passed review")
registry.fetch("phi-3-mini:production@iphone-15", "bundle")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from phipack.api.arguments import (
    AnyPath,
    as_bundle,
    as_evidence,
    as_path,
    as_reason,
    as_reference,
)
from phipack.api.registered import RegisteredMethods
from phipack.api.registry_releases import ReleaseMethods
from phipack.api.results import ReportPage
from registry.bundle.folder import Bundle
from targets.errors import MalformedReferenceError
from targets.evidence import Evidence
from targets.measurement import Measurement
from targets.progress import Progress
from targets.references import Reference

if TYPE_CHECKING:
    from registry.catalog.signing import KeyFolder
    from registry.diff.compare import Difference, Side
    from registry.fetch import Fetched
    from registry.garbage import Collected
    from registry.ledger.channel_moves import Move
    from registry.ledger.relocation import Relocation
    from registry.ledger.versions import CellVersion
    from registry.publication import Publication
    from registry.store.protocol import Store


class Registry(RegisteredMethods, ReleaseMethods):
    """An MLflow server or database with the store that holds the bundles. Connects when something is asked of it.

    Every method raises `RegistryError` or `StoreError` where MLflow or the store refuses, and their `…UnreachableError`
    kinds, worth another try, where one does not answer; and `MalformedReferenceError` where a reference or the name of
    a channel is none.
    """

    def add_measurements(self, digest: str, measurements: Iterable[Measurement]) -> int:
        """Add measurements of a bundle to the store, and return how many are new. A release's gates see them then.

        Raises:
            StoreError: one is of another bundle, or the store can't be written.
        """
        from registry.store.measurements import add_measurements

        self.store.check_writable()
        return add_measurements(self.store, digest, tuple(measurements))

    def register(
        self,
        bundle: AnyPath | Bundle,
        evidence: AnyPath | Evidence,
        as_: str | Reference,
        *,
        with_report: bool = False,
    ) -> CellVersion:
        """Add a bundle to the store and register it with its evidence.

        Args:
            bundle: a folder or an opened bundle.
            evidence: what `phipack.validate` returned for it, or a file of that; with a target, if it is for phones.
            as_: the exact reference, `MODEL:1.0.0@CELL`.
            with_report: keep report, card and charts with the evidence, as `release` does. Needs `phipack[report]`.

        Raises:
            RegistryError: the version has another bundle for this cell already, or the evidence is of another bundle.
            BundleError: the bundle's files are not those of its manifest.
        """
        from registry.ledger.registration import Registration

        wanted = as_reference(as_)
        if wanted.version is None or wanted.cell is None:
            raise MalformedReferenceError(
                f"{wanted} does not name one cell of one version", fix="write MODEL:1.0.0@CELL"
            )
        opened, found = as_bundle(bundle), as_evidence(evidence)
        entry = Registration(wanted.model, wanted.version, wanted.cell, opened.manifest, found)
        entry.check()
        self._ledger.mlflow.connect()  # before gigabytes are stored in vain
        self.store.check_writable()
        self.store.add_bundle(opened)
        if with_report:
            from phipack.api.reporting import with_pages

            entry = with_pages(self._ledger, entry, {}, self._on_progress)
        return self._ledger.register(entry)

    def promote(
        self,
        reference: str | Reference,
        to: str,
        *,
        reason: str = "",
        override_reason: str | None = None,
        new_channel: bool = False,
    ) -> Move:
        """Point a channel at a release: at every cell of `MODEL:VERSION`, or at one with `@CELL`. All move, or none.

        Args:
            reference: what is promoted.
            to: the channel, such as `candidate`, `staging` or `production`.
            reason: kept in the history.
            override_reason: why it goes ahead in spite of failing or missing evidence and missing cells. Kept too.
            new_channel: make a channel even where its name is nearly that of another one.

        Returns:
            The move; its `cells` are those that moved, none where all were there already. `unmoved`: cells of the
            channel that the release does not have, which stay where they are.

        Raises:
            GateError: a cell is missing, or its evidence does not pass: see `failures`. Nothing moved.
            RegistryError: this user may not move the channel, or its name seems misspelt. Nothing moved.
        """
        from registry.promotion import current_user, promote

        wanted = as_reference(reference)
        return promote(
            self._ledger,
            wanted,
            to,
            who=self.user or current_user(),
            why=as_reason(reason),
            roles=self._roles(wanted.model),
            override_reason=None if override_reason is None else as_reason(override_reason),
            new_channel=new_channel,
        )

    def retire(self, reference: str | Reference, channel: str, *, reason: str = "") -> Move:
        """Take a cell, `MODEL@CELL`, out of a channel. Its versions stay registered, and `rollback` brings it back.

        Raises:
            RegistryError: the channel has no such cell, or this user may not move the channel. Nothing moved.
        """
        from registry.promotion import current_user, retire

        wanted, who = as_reference(reference), self.user or current_user()
        why, roles = as_reason(reason), self._roles(wanted.model)
        return retire(self._ledger, wanted, channel, who=who, why=why, roles=roles)

    def rollback(self, model: str, channel: str = "production", *, reason: str = "", empty: bool = False) -> Move:
        """Take a channel's last promotion or retirement back: every cell of it returns to where it was before.

        Args:
            model: whose channel.
            channel: what moves.
            reason: kept in the history.
            empty: take back the first promotion, too, which leaves the channel empty.

        Raises:
            RegistryError: there is no promotion to take back, or this user may not move the channel. Nothing moved.
        """
        from registry.promotion import current_user, rollback

        who = self.user or current_user()
        why, roles = as_reason(reason), self._roles(model)
        return rollback(self._ledger, model, channel, who=who, why=why, roles=roles, empty=empty)

    def diff(
        self,
        before: str | Reference,
        after: str | Reference,
        *,
        read_tensors: bool = True,
        on_progress: Progress | None = None,
    ) -> tuple[Difference, ...]:
        """Compare two versions cell by cell, or two bundles.

        Args:
            before: a reference, or the path of a bundle's folder.
            after: the same.
            read_tensors: read weight files that differ, to report which tensors do.
            on_progress: called with each cell.
        """
        from phipack.api.comparing import compare_sides

        report = on_progress or self._on_progress
        return compare_sides(self._sides(before), self._sides(after), read_tensors=read_tensors, on_progress=report)

    def report(self, reference: str | Reference, *, against: str | Reference | None = None) -> ReportPage:
        """Report on what a reference stands for: every cell's evidence, as one page that a reviewer decides from.

        Needs `phipack[registry,report]`. Nothing is written, here or in the registry.

        Args:
            reference: a release, a channel or one cell.
            against: what it is compared with, cell by cell; by default what production has.

        Raises:
            RegistryError: no version matches, or its evidence can't be read.
        """
        from phipack.api.reporting import report_release

        own = {} if self.project is None else {cell.target.name: cell.target for cell in self.project.cells}
        other = None if against is None else as_reference(against)
        return report_release(self._ledger, self._reader(), as_reference(reference), other, own)

    def publish(  # noqa: PLR0913 - the public face
        self,
        model: str,
        to: AnyPath | Store | None = None,
        *,
        channel: str = "production",
        rollout_percent: float = 100.0,
        deltas: bool = True,
        drop: Iterable[str] = (),
        newest_only: bool = False,
        new_catalog: bool = False,
        keys: AnyPath | KeyFolder | None = None,
        on_progress: Progress | None = None,
    ) -> Publication:
        """Publish what a channel points at as a signed catalog, which any web server or CDN can serve.

        Args:
            model: whose channel.
            to: the catalog: a folder or `s3://BUCKET/PREFIX`; the registry's own store by default.
            channel: whose bundles are published.
            rollout_percent: share of installations that may have them; the others keep the release before.
            deltas: offer deltas from the bundles that phones have.
            drop: cells that are published, that the channel does not point at any more, and that no move has taken out.
            newest_only: offer no earlier release to apps whose runtimes can't run the newest, from now on.
            new_catalog: begin a catalog at a place that has none, nor any bundle of the channel.
            keys: folder of the signing keys; `keys` in the registry's home by default.
            on_progress: called with what is copied and made.

        Raises:
            PublicationError: a published cell is missing in the channel, or a move of it is unfinished; the rollout is
                narrower than it was; or the place has no catalog or a damaged one.
            KeysError: too few keys are at hand, or the root has expired.
            RegistryError: the channel is empty.
        """
        from registry.catalog.rollout import basis_points_of
        from registry.publication import Order, publish
        from targets.devices import load_targets

        share = basis_points_of(rollout_percent)
        order = Order(model, channel, share, deltas, frozenset(drop), newest_only, new_catalog)
        own = {} if self.project is None else {cell.target.name: cell.target for cell in self.project.cells}
        return publish(
            self._reader(),
            order,
            self._catalog(to),
            self._keys(keys),
            targets=load_targets() | own,
            moves=lambda: self._ledger.moves(model),
            on_progress=on_progress or self._on_progress,
        )

    def refresh_catalog(
        self, to: AnyPath | Store | None = None, *, keys: AnyPath | KeyFolder | None = None
    ) -> datetime:
        """Sign a catalog again as it is, before it expires; return when it will expire. Raises as `publish` does."""
        from registry.publication import refresh

        return refresh(self._catalog(to), self._keys(keys), on_progress=self._on_progress)

    def fetch(  # noqa: PLR0913 - the public face
        self,
        source: AnyPath | Reference,
        out: AnyPath,
        *,
        digest: str | None = None,
        replace: bool = False,
        reuse: Iterable[AnyPath] = (),
        runtimes: Mapping[str, str] | None = None,
        on_progress: Progress | None = None,
    ) -> Fetched:
        """Put a verified bundle at `out`. Needs `phipack[registry]` for a reference.

        Args:
            source: `MODEL[:VERSION|:CHANNEL|:^RANGE]@CELL`; or the path or URL of a bundle, as `phipack.fetch` takes.
            out: the bundle's folder; must not exist, unless it is this very bundle already, or `replace`.
            digest: accept only the bundle of this digest, `sha256:…`.
            replace: replace the bundle that is there.
            reuse: folders of bundles; what they have is copied instead of downloaded.
            runtimes: every runtime that the app ships and its version: a bundle that they can't run is refused.
            on_progress: called with what was downloaded.

        Raises:
            RegistryError: no version matches. StoreError: a blob is damaged. FetchError, FitError,
                TargetError: as `phipack.fetch`.
            BuildError: `out` exists or can't be written. Nothing was put in place.
        """
        from phipack.api.delivery import download_options
        from registry.fetch import fetch
        from registry.ledger.reader import resolve_in

        return fetch(
            str(source),
            as_path(out),
            download_options(digest, replace, reuse, runtimes),
            resolver=lambda reference: resolve_in(self._reader(), reference),
            store=self.store,
            on_progress=on_progress or self._on_progress,
        )

    def collect_garbage(
        self, *, dry_run: bool = False, grace_hours: float = 24.0, on_progress: Progress | None = None
    ) -> Collected:
        """Remove from the store what no version, channel or published catalog refers to.

        Args:
            dry_run: remove nothing; report what would be removed.
            grace_hours: leave alone what was added or used within it: longer than any release takes, and at least 1.
            on_progress: called with each blob.

        Raises:
            StoreError: the grace is shorter, and it is no dry run.
            RegistryError: nothing refers to the store though it holds blobs: it belongs to another registry.
        """
        from registry.garbage import LEAST_GRACE_HOURS, collect
        from targets.errors import StoreError

        if not dry_run and not grace_hours >= LEAST_GRACE_HOURS:
            raise StoreError(
                f"a grace of {grace_hours} hours could remove what a running release has just added",
                fix=f"pass grace_hours of at least {LEAST_GRACE_HOURS:g}",
            )
        return collect(
            self.store,
            self._reader(),
            grace_seconds=grace_hours * 3600,
            dry_run=dry_run,
            on_progress=on_progress or self._on_progress,
        )

    def relocate(self, *, dry_run: bool = False) -> Relocation:
        """Re-point what is registered to this store, after it was moved: where digests agree, all or none.

        Raises `RegistryError` where a bundle or its evidence is not in this store, or the registry is a server.
        """
        from registry.ledger.relocation import relocate

        return relocate(self._ledger, dry_run=dry_run)

    def _sides(self, given: str | Reference) -> list[Side]:
        from registry.diff.compare import folder_side, version_side
        from registry.fetch import is_path

        if isinstance(given, str) and is_path(given):
            return [folder_side(as_path(given))]
        return [version_side(self._ledger, version) for version in self.resolve(given)]
