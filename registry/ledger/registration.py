"""What is registered for a cell, and how it is written to an MLflow run, through the client that is handed in."""

from __future__ import annotations

import getpass
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry.bundle.manifest import MANIFEST_NAME, Manifest
from registry.files.digests import digest_of_bytes
from registry.ledger.channel_moves import CELL_KIND, KIND_TAG
from registry.ledger.versions import (
    CELL_TAG,
    CHECKPOINT_TAG,
    DIGEST_TAG,
    EVIDENCE_TAG,
    FAILED,
    GATES_TAG,
    MODEL_TAG,
    PASSED,
    RECIPE_TAG,
    RELEASE_TAG,
    RUN_TAG,
    STORE_TAG,
    TAG_PREFIX,
    TARGET_TAG,
    CellVersion,
)
from targets.errors import RegistryError
from targets.evidence import Evidence
from targets.references import Version, check_name

EVIDENCE_NAME = "evidence.json"


@dataclass(frozen=True)
class Registration:
    """A bundle that the store has, as `cell` of release `version` of `model`, with its evidence."""

    model: str
    version: Version
    cell: str
    manifest: Manifest
    evidence: Evidence

    @property
    def reference(self) -> str:
        """The exact reference, `MODEL:1.0.0@CELL`."""
        return f"{self.model}:{self.version}@{self.cell}"

    @property
    def evidence_digest(self) -> str:
        """Digest of `evidence.json` as MLflow keeps it."""
        return digest_of_bytes(self.evidence.to_json().encode())

    def check(self) -> None:
        """Hold names against the grammar and the evidence against the bundle.

        Raises:
            MalformedReferenceError: a name is not in the grammar.
            RegistryError: the evidence is of something else.
        """
        check_name("model", self.model)
        check_name("cell", self.cell)
        for what, said, is_ in (
            ("bundle", self.evidence.bundle, self.manifest.digest),
            ("checkpoint", self.evidence.checkpoint, self.manifest.checkpoint),
        ):
            if said != is_:
                raise RegistryError(
                    f"{self.reference}: the evidence is of {what} {said}, not of {is_}",
                    fix="run phipack validate on this bundle, and register it with that evidence",
                )

    def version_tags(self, run_id: str, store_uri: str) -> dict[str, str]:
        """Tags of the MLflow version, all given in the call that makes it."""
        return self._identity() | {
            DIGEST_TAG: self.manifest.digest,
            CHECKPOINT_TAG: self.manifest.checkpoint,
            RECIPE_TAG: self.manifest.recipe.name,
            TARGET_TAG: self.evidence.target or "",
            GATES_TAG: PASSED if self.evidence.passed else FAILED,
            EVIDENCE_TAG: self.evidence_digest,
            RUN_TAG: run_id,
            STORE_TAG: store_uri,
        }

    def run_tags(self) -> dict[str, str]:
        """Tags of the run that keeps the evidence."""
        return self._identity() | {KIND_TAG: CELL_KIND, DIGEST_TAG: self.manifest.digest}

    def log_to(self, client: Any, run_id: str) -> None:
        """Write figures, parameters and the two files to the run."""
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        metrics = [Metric(name, figure.value, now, 0) for name, figure in self.evidence.figures.items()]
        tags = self.version_tags(run_id, "")
        params = [
            Param(tag.removeprefix(TAG_PREFIX), tags[tag])
            for tag in (CELL_TAG, RELEASE_TAG, RECIPE_TAG, TARGET_TAG, DIGEST_TAG, CHECKPOINT_TAG)
        ]
        client.log_batch(run_id, metrics=metrics, params=[*params, Param("text", self.evidence.text)])
        client.log_text(run_id, self.evidence.to_json(), EVIDENCE_NAME)
        client.log_text(run_id, self.manifest.to_bytes().decode(), MANIFEST_NAME)

    def taken(self, existing: CellVersion) -> RegistryError:
        """The refusal where the release has another bundle already."""
        return RegistryError(
            f"{existing.reference} is registered already, with another bundle: {existing.digest},"
            f" not {self.manifest.digest}",
            fix="a release does not change: raise the version in phipack.toml",
        )

    def _identity(self) -> dict[str, str]:
        return {MODEL_TAG: self.model, CELL_TAG: self.cell, RELEASE_TAG: str(self.version)}


def ui_tags(tags: Mapping[str, str], user: str | None = None) -> dict[str, str]:
    """Add what MLflow's own pages show of a run: who made it, and with what."""
    return {**tags, "mlflow.user": user or getpass.getuser(), "mlflow.source.name": "phipack"}
