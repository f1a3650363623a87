"""What is registered for a cell, and what of it MLflow's version and run keep. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry.bundle.manifest import MANIFEST_NAME, Manifest
from registry.files.digests import digest_of_bytes
from registry.ledger.channel_moves import CELL_KIND, KIND_TAG, RELEASE_KIND
from registry.ledger.release_inputs import inputs_of, inputs_to_tag
from registry.ledger.run_metrics import RunMetric, run_metrics
from registry.ledger.versions import (
    BUDGET_TAG,
    CELL_TAG,
    CHECKPOINT_TAG,
    DIGEST_TAG,
    EVIDENCE_TAG,
    FAILED,
    GATES_TAG,
    INPUTS_TAG,
    KV_CACHE_TAG,
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
from targets.this_user import user_name

EVIDENCE_NAME = "evidence.json"
REPORT_NAME = "report.html"
NOTE_TAG = "mlflow.note.content"  # what MLflow's pages show as a run's description

RENEWED = f"The evidence was measured again: see the tag {GATES_TAG}, and the source run for all of it."


@dataclass(frozen=True)
class Registration:
    """A bundle that is in the store, as `cell` of release `version` of `model`, with its evidence.

    `settings`: how the whole release is evaluated, as inputs (`release_inputs.py`), where that is known. `description`:
    what MLflow's pages of the version and the run begin with, in Markdown; `pages`: more files of the run, by name.
    """

    model: str
    version: Version
    cell: str
    manifest: Manifest
    evidence: Evidence
    settings: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    pages: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """The exact reference, `MODEL:1.0.0@CELL`."""
        return f"{self.model}:{self.version}@{self.cell}"

    @property
    def release(self) -> str:
        """The release's reference, `MODEL:1.0.0`."""
        return f"{self.model}:{self.version}"

    @property
    def evidence_digest(self) -> str:
        """Digest of `evidence.json` as MLflow keeps it."""
        return digest_of_bytes(self.evidence.to_json().encode())

    @property
    def inputs(self) -> dict[str, str]:
        """What the cell is made from: it must be the same in every cell of the release."""
        return inputs_of(self.manifest, self.evidence) | dict(self.settings)

    def check(self) -> None:
        """Check names against the grammar and the evidence against the bundle.

        Raises:
            MalformedReferenceError: a name is not in the grammar.
            RegistryError: the evidence is of something else.
        """
        check_name("model", self.model)
        check_name("cell", self.cell)
        for what, measured, registered in (
            ("bundle", self.evidence.bundle, self.manifest.digest),
            ("checkpoint", self.evidence.checkpoint, self.manifest.checkpoint),
        ):
            if measured != registered:
                raise RegistryError(
                    f"{self.reference}: the evidence is of {what} {measured}, not of {registered}",
                    fix="run phipack validate on this bundle, and register it with that evidence",
                )

    def version_tags(self, run_id: str, store_uri: str) -> dict[str, str]:
        """Return the tags of the MLflow version, all of which go into the call that creates it."""
        return (
            self._identity()
            | {
                DIGEST_TAG: self.manifest.digest,
                CHECKPOINT_TAG: self.manifest.checkpoint,
                RECIPE_TAG: self.manifest.recipe.name,
                TARGET_TAG: self.evidence.target or "",
                GATES_TAG: PASSED if self.evidence.passed else FAILED,
                EVIDENCE_TAG: self.evidence_digest,
                RUN_TAG: run_id,
                STORE_TAG: store_uri,
                INPUTS_TAG: inputs_to_tag(self.inputs),
            }
            | ({} if self.manifest.recipe.budget is None else {BUDGET_TAG: self.manifest.recipe.budget.asked})
            | ({KV_CACHE_TAG: self.manifest.recipe.kv_cache} if self.manifest.recipe.kv_cache else {})
        )

    def run_tags(self) -> dict[str, str]:
        """Return the tags of the run that keeps the evidence."""
        tags = self._identity() | {KIND_TAG: CELL_KIND, DIGEST_TAG: self.manifest.digest}
        return tags | ({NOTE_TAG: self.description} if self.description else {})

    def release_tags(self) -> dict[str, str]:
        """Return the tags of the run that the runs of the release's cells are nested in."""
        note = f"Release {self.version} of {self.model}: one run for each cell is nested in this one."
        return {MODEL_TAG: self.model, RELEASE_TAG: str(self.version), KIND_TAG: RELEASE_KIND, NOTE_TAG: note}

    def metrics(self) -> tuple[RunMetric, ...]:
        """Return the run's metrics: the evidence's figures, and what stands behind them."""
        return run_metrics(self.evidence)

    def params(self) -> dict[str, str]:
        """Return the run's parameters."""
        tags = self.version_tags("", "")
        shown = (CELL_TAG, RELEASE_TAG, RECIPE_TAG, TARGET_TAG, DIGEST_TAG, CHECKPOINT_TAG)
        return {tag.removeprefix(TAG_PREFIX): tags[tag] for tag in shown} | {"text": self.evidence.text}

    def files(self) -> dict[str, bytes]:
        """Return the run's files, by name."""
        return {**self.pages, EVIDENCE_NAME: self.evidence.to_json().encode(), MANIFEST_NAME: self.manifest.to_bytes()}

    def taken(self, existing: CellVersion) -> RegistryError:
        """Return the error for a release that has another bundle for this cell already."""
        return RegistryError(
            f"{existing.reference} is registered already, with another bundle: {existing.digest},"
            f" not {self.manifest.digest}",
            fix="raise the version in phipack.toml: a release does not change",
        )

    def _identity(self) -> dict[str, str]:
        return {MODEL_TAG: self.model, CELL_TAG: self.cell, RELEASE_TAG: str(self.version)}


def ui_tags(tags: Mapping[str, str], user: str | None = None) -> dict[str, str]:
    """Add what MLflow's own pages show of a run: who made it, and with what."""
    return {**tags, "mlflow.user": user or user_name(), "mlflow.source.name": "phipack"}
