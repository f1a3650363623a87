"""The part of `Registry` that reads: what is registered, its evidence and reports, and how its channels moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from phipack.api.arguments import as_reference
from phipack.api.connection import RegistryConnection
from phipack.api.results import RegisteredCell
from targets.errors import MalformedReferenceError, PhipackError, RegistryError, RegistryUnreachableError
from targets.evidence import Evidence
from targets.measurement import Measurement
from targets.references import Reference

if TYPE_CHECKING:
    from registry.bundle.manifest import Manifest
    from registry.ledger.channel_moves import Move
    from registry.ledger.release_plan import Noted
    from registry.ledger.versions import CellVersion


class RegisteredMethods(RegistryConnection):
    """What is there. Nothing is written, and a registry that does not exist is empty."""

    def models(self) -> tuple[str, ...]:
        """Return the names of all models, sorted."""
        return tuple(self._reader().models())

    def versions(self, model: str | None = None) -> tuple[CellVersion, ...]:
        """Return all versions of all cells, of one model or of all, sorted by model, cell and version."""
        return tuple(self._reader().versions(model))

    def resolve(self, reference: str | Reference) -> tuple[CellVersion, ...]:
        """Return the versions that a reference stands for, one for each cell. Raises where there is none."""
        from registry.ledger.reader import resolve_in

        return tuple(resolve_in(self._reader(), as_reference(reference)))

    def show(self, reference: str | Reference) -> tuple[RegisteredCell, ...]:
        """Return the cells that a reference stands for, each with its evidence."""
        from registry.ledger.release_plan import noted

        versions = self.resolve(reference)
        notes = self._ledger.notes(versions[0].model)
        found = []
        for version, evidence in zip(versions, self.evidence_of(versions), strict=True):
            if isinstance(evidence, PhipackError):
                raise evidence
            measurements, link = self.measurements(version.digest), self.run_link(version.run_id)
            found.append(RegisteredCell(version, evidence, measurements, link, noted(notes, version.release).reason))
        return tuple(found)

    def measurements(self, digest: str) -> tuple[Measurement, ...]:
        """Return the measurements on devices that the store has of a bundle, by its digest."""
        from registry.store.measurements import read_measurements

        return read_measurements(self.store, digest)

    def manifest(self, reference: str | Reference) -> Manifest:
        """Return the manifest of one cell's bundle. Raises `RegistryError` where the reference stands for several."""
        return self.store.manifest(self._one(reference).digest)

    def evidence(self, reference: str | Reference) -> Evidence:
        """Return the evidence of one cell. Raises `RegistryError` where the reference stands for several."""
        return self._ledger.evidence(self._one(reference))

    def evidence_of(self, versions: Sequence[CellVersion]) -> tuple[Evidence | PhipackError, ...]:
        """Return the evidence of each version; the error, not raised, where it is missing or was changed.

        One that is damaged hides no other. Few requests are made for many versions.
        """
        from registry.ledger.evidence_reading import evidence_of

        return tuple(evidence_of(self._ledger, versions))

    def noted(self, reference: str | Reference) -> Noted:
        """Return which cells a version (`MODEL:1.0.0`) plans, and why it is made, as far as that was noted."""
        wanted = as_reference(reference)
        if wanted.version is None:
            raise MalformedReferenceError(f"{wanted} does not name a version", fix="write MODEL:1.0.0")
        return self._ledger.noted(wanted.model, wanted.version)

    def planned_cells(self, reference: str | Reference) -> tuple[str, ...]:
        """Return the cells that a version (`MODEL:1.0.0`) plans; none where that was never noted."""
        return self.noted(reference).cells

    def reason(self, reference: str | Reference) -> str:
        """Return why a version (`MODEL:1.0.0`) is made, by its project file; empty where it does not say."""
        return self.noted(reference).reason

    def history(self, model: str, *, channel: str | None = None, cell: str | None = None) -> tuple[Move, ...]:
        """Return the moves of a model's channels, newest first; of one channel, or those that moved one cell.

        The run that has evidence and report of what was promoted is the `run_id` of a move's cell: see `run_link` and
        `stored_report`.
        """
        from registry.ledger.channel_moves import with_runs
        from registry.promotion import history

        moves = history(self._ledger, model, channel=channel, cell=cell)
        if all(part.run_id or part.evidence is None for move in moves for part in move.cells):
            return tuple(moves)
        return tuple(with_runs(moves, self.versions(model)))

    def run_link(self, run_id: str) -> str:
        """Return where a run's report and evidence are: the address of a page of MLflow's server, else the run's URI.

        It is made from where the registry is now, and holds no login.
        """
        from registry.ledger.tracking import run_link

        return run_link(self.tracking_uri, run_id)

    def stored_report(self, run_id: str) -> bytes:
        """Return the report that was kept with the evidence in a run, as one HTML page.

        Raises:
            RegistryError: the run has none: it was registered without one, or the file was removed.
        """
        from registry.ledger.registration import REPORT_NAME

        try:
            return self._ledger.mlflow.read_file(run_id, REPORT_NAME)
        except RegistryUnreachableError:
            raise
        except RegistryError as error:
            raise RegistryError(
                f"MLflow's run {run_id} has no report that can be read",
                fix="write one from the evidence: phipack report MODEL:VERSION -o report.html",
            ) from error

    def _one(self, reference: str | Reference) -> CellVersion:
        versions = self.resolve(reference)
        if len(versions) > 1:
            cells = ", ".join(version.cell for version in versions)
            raise RegistryError(f"{reference} has several cells: {cells}", fix=f"name one: {versions[0].reference}")
        return versions[0]
