"""Whether a bundle was built from a checkpoint: by digests, those of base and adapter where it was merged from two."""

from __future__ import annotations

from builders.checkpoint import Checkpoint
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError


def require_origin(bundle: Bundle, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that the bundle was not built from. Reads every byte of the checkpoint, once.

    Raises:
        MeasurementError: another checkpoint, another adapter, or one of the two is missing or too much.
    """
    asked, given = bundle.manifest.merged_from, checkpoint.merged_from
    if asked is not None and given is None:
        raise MeasurementError(
            f"{bundle.path} was built from a base and the adapter {asked.adapter}; only a checkpoint is named",
            fix="name the adapter too: --adapter DIR",
        )
    if asked is None and given is not None:
        raise MeasurementError(
            f"{bundle.path} was built without an adapter", fix="leave out --adapter, or name the bundle built with it"
        )
    if asked is not None and given is not None and asked.base == given.base and asked.adapter != given.adapter:
        raise MeasurementError(
            f"{bundle.path} was built with the adapter {asked.adapter}, not with {given.adapter}",
            fix="name the adapter that it was built with",
        )
    name = bundle.manifest.checkpoint if asked is None else asked.base
    digest = checkpoint.digest if given is None else given.base
    if name != digest:
        raise MeasurementError(
            f"{bundle.path} was built from checkpoint {name}, not from {checkpoint.path} ({digest})",
            fix="name the checkpoint that it was built from",
        )
