"""Evidence of many versions, read from MLflow at once: what was changed or is gone spoils its own cell alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from registry.ledger.ledger import Ledger
from registry.ledger.versions import CellVersion
from targets.errors import MeasurementError, PhipackError, RegistryError, RegistryUnreachableError
from targets.evidence import Evidence


def evidence_of(ledger: Ledger, versions: Sequence[CellVersion]) -> list[Evidence | PhipackError]:
    """Return the evidence of each version; the error where it is missing or was changed.

    Where runs keep their files is asked once for a model. Raises `RegistryUnreachableError`.
    """
    folders: dict[str, str] = {}
    for model in sorted({version.model for version in versions}):
        folders |= ledger.evidence_folders(model, [one for one in versions if one.model == model])
    return ledger.mlflow.at_once([partial(_read, ledger, one, folders.get(one.run_id)) for one in versions])


def _read(ledger: Ledger, version: CellVersion, folder: str | None) -> Evidence | PhipackError:
    try:
        return ledger.evidence(version, folder)
    except RegistryUnreachableError:
        raise
    except (RegistryError, MeasurementError) as error:
        return error
