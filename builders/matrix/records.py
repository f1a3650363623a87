"""What jobs have done, as the store records it (registry/store/actions.py), in the builders' own terms."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from builders.matrix.keys import checkpoint_key
from builders.matrix.rates import rate_label
from registry.bundle.manifest import AdapterEntry, Manifest
from registry.store.actions import ActionRecord, content_of, read_action, write_action
from registry.store.protocol import Blob, Store
from targets.architecture import Architecture
from targets.errors import BuildError
from targets.evidence import Evidence

_ARCHITECTURE = TypeAdapter(Architecture)


@dataclass(frozen=True)
class CheckpointFacts:
    """What is planned, judged and registered with, of a checkpoint whose files are elsewhere."""

    architecture: Architecture
    digest: str
    merged_from: AdapterEntry | None


@dataclass(frozen=True)
class Effort:
    """What a job took: seconds, and how much work it was in the unit of its rate (`rates.py`)."""

    seconds: float
    amount: float


@dataclass(frozen=True)
class LabelledEffort(Effort):
    """What a calibration took. `label`: under which its rate is recorded. `amount`: 0 where nothing was measured."""

    label: str


def machine_name() -> str:
    """Return this machine in words, as records name it: `Linux x86_64, 2 cores`."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def built_bundle(store: Store, key: str) -> Manifest | None:
    """Return the manifest of a build that any machine has done, if the store has all of its bundle."""
    record = read_action(store, "build", key)
    return None if record is None or record.bundle is None else store.manifest(record.bundle)


def record_build(store: Store, key: str, manifest: Manifest, effort: Effort) -> None:
    """Record a build whose bundle is in the store. Another machine may have recorded it first.

    Raises:
        BuildError: that machine has built other bytes.
    """
    entry, has_budget = manifest.recipe.calibration, manifest.recipe.budget is not None
    label = rate_label(manifest.recipe.name, "none" if entry is None else entry.level, has_budget)
    own = _record("build", key, manifest, effort, {}).model_copy(update={"recipe": label})
    counting = write_action(store, own)
    if counting.bundle != own.bundle:
        raise BuildError(
            f"two builds of {manifest.recipe.name} from the same inputs differ: {own.bundle}, built here "
            f"({own.machine}), and {counting.bundle} ({counting.machine}), which was recorded first",
            fix=f"compare the two with phipack diff; to use this machine's, remove {store.uri}/{own.document_name}",
        )


def recorded_evidence(store: Store, key: str, manifest: Manifest) -> Evidence | None:
    """Return the figures that any machine has measured of this bundle, without gates; None where there are none.

    A record of another bundle or checkpoint, or of another shape, counts as none.
    """
    record = read_action(store, "validate", key)
    return None if record is None else _evidence_of(record, manifest)


def record_evidence(store: Store, key: str, manifest: Manifest, evidence: Evidence, effort: Effort) -> Evidence:
    """Record what was measured. Return what counts: the figures of another machine, where it was quicker."""
    record = _record("validate", key, manifest, effort, json.loads(evidence.to_json()))
    counting = write_action(store, record, counts=lambda there: _evidence_of(there, manifest) is not None)
    return _evidence_of(counting, manifest) or evidence


def recorded_walk(store: Store, key: str) -> dict[str, Blob] | None:
    """Return the files of a calibration that any machine has done, by name; None where the store has not got all."""
    record = read_action(store, "calibrate", key)
    return (record.files or None) if record is not None else None


def record_walk(store: Store, key: str, checkpoint: str, files: Mapping[str, Blob], effort: LabelledEffort) -> bool:
    """Record a calibration whose files are in the store. Return False where other files were recorded first.

    A record of files of other names counts as none: another reading of the text has made them.
    """
    own = ActionRecord(
        schema="phipack.action/1",
        action="calibrate",
        key=key,
        recipe=effort.label,
        checkpoint=checkpoint,
        machine=machine_name(),
        seconds=round(effort.seconds, 3),
        amount=effort.amount,
        content=content_of(files),
    )
    counting = write_action(store, own, counts=lambda there: (there.files or {}).keys() == files.keys())
    return counting.files == files


def record_checkpoint(store: Store, checkpoint: CheckpointFacts) -> None:
    """Record what is needed to register a checkpoint's bundles where its files are not."""
    content = {
        "architecture": _ARCHITECTURE.dump_python(checkpoint.architecture, mode="json"),
        "merged_from": None if checkpoint.merged_from is None else checkpoint.merged_from.model_dump(mode="json"),
    }
    key = checkpoint_key(checkpoint.digest)
    if read_action(store, "checkpoint", key) is None:
        record = ActionRecord(
            schema="phipack.action/1", action="checkpoint", key=key, checkpoint=checkpoint.digest, content=content
        )
        write_action(store, record)


def recorded_checkpoint(store: Store, digest: str) -> CheckpointFacts | None:
    """Return the facts of a checkpoint from which any machine has built; None where there is no record of it."""
    record = read_action(store, "checkpoint", checkpoint_key(digest))
    if record is None or record.checkpoint != digest:
        return None
    try:
        architecture = _ARCHITECTURE.validate_python(record.content["architecture"])
        merged: Any = record.content["merged_from"]
        return CheckpointFacts(architecture, digest, None if merged is None else AdapterEntry.model_validate(merged))
    except (KeyError, ValidationError):
        return None


def _record(action: Any, key: str, manifest: Manifest, effort: Effort, content: dict[str, Any]) -> ActionRecord:
    return ActionRecord(
        schema="phipack.action/1",
        action=action,
        key=key,
        recipe=manifest.recipe.name,
        checkpoint=manifest.checkpoint,
        bundle=manifest.digest,
        machine=machine_name(),
        seconds=round(effort.seconds, 3),
        amount=float(effort.amount),
        content=content,
    )


def _evidence_of(record: ActionRecord, manifest: Manifest) -> Evidence | None:
    try:
        evidence = Evidence.model_validate(record.content)
    except ValidationError:
        return None
    named = (record.bundle, evidence.bundle, evidence.checkpoint)
    return evidence if named == (manifest.digest, manifest.digest, manifest.checkpoint) else None
