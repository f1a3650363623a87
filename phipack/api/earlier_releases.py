"""What a recipe's divergence has been in the registry: a report shows it next to a new release's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from builders.report.content import Earlier
from registry.bundle.manifest import Manifest
from registry.ledger.ledger import Ledger
from registry.ledger.versions import CellVersion
from targets.errors import RegistryError
from targets.evidence import Evidence
from targets.references import Version

_MOST_READ = 8  # evidence is a file of its own for each


def earlier_releases(
    ledger: Ledger, registered: Sequence[CellVersion], release: Version, manifest: Manifest, found: Evidence | None
) -> tuple[Earlier, ...]:
    """Return the divergence of other releases of the model by the same recipe, on the same text, the newest first.

    `registered`: all versions of the model. `release`, `manifest`, `found`: the bundle's own, and its evidence. Only
    releases count that passed their gates. Each bundle counts once; evidence that can't be read does not.
    """
    if found is None:
        return ()
    recipe = _recipe(manifest)
    rows = [row for row in registered if row.gates_passed and row.release != release and _recipe_of(row) == recipe]
    earlier = []
    for row in _of_other_bundles(rows, manifest.digest)[:_MOST_READ]:
        with suppress(RegistryError):
            other = ledger.evidence(row)
            if other.text == found.text and "kl_mean" in other.figures:
                earlier.append(Earlier(row.reference, other.figures["kl_mean"].value))
    return tuple(earlier)


def _recipe(manifest: Manifest) -> tuple[str, str, str | None, str]:
    entry = manifest.recipe
    level = "none" if entry.calibration is None else entry.calibration.level
    return entry.name, level, None if entry.budget is None else entry.budget.asked, entry.kv_cache


def _recipe_of(row: CellVersion) -> tuple[str, str, str | None, str]:
    return row.recipe, row.calibration, row.budget, row.kv_cache


def _of_other_bundles(rows: Iterable[CellVersion], digest: str) -> list[CellVersion]:
    """Return one row for each bundle, the newest first; none of the version's own."""
    by_digest = {row.digest: row for row in sorted(rows, key=lambda one: (one.created, one.number))}
    by_digest.pop(digest, None)
    return sorted(by_digest.values(), key=lambda one: (one.created, one.number), reverse=True)
