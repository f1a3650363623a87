"""A release is one thing: every cell of it is made from the same checkpoint, evaluated in the same way. Pure.

Each version keeps what it was made from in the tag `phipack.inputs`, a JSON object of texts:

    checkpoint                        sha256:…
    adapter, base                     sha256:…, where the checkpoint is a base with a merged adapter
    tool.NAME                         version of each tool that shaped the bundle
    calibration.LEVEL                 digest of the tokens that cells of this level were calibrated with
    evaluation.KEY                    the settings of the evaluation: digest of its text, tokens, window, …
    tokens of 4 windows of 512        digest of the tokens that were read

The first cell of a release fixes these for all: a cell that has another value of one of them is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from registry.bundle.manifest import AdapterEntry, Manifest
from registry.ledger.versions import CALIBRATION_INPUT, CellVersion
from targets.errors import RegistryError
from targets.evidence import Evidence
from targets.references import Version


def tool_inputs(tools: Mapping[str, str]) -> dict[str, str]:
    """Return the inputs that are tools; `tools`: version by name."""
    return {f"tool.{name}": version for name, version in tools.items()}


def checkpoint_inputs(digest: str, merged_from: AdapterEntry | None) -> dict[str, str]:
    """Return the inputs that are weights; `merged_from`: base and adapter, where one was merged."""
    parts = {} if merged_from is None else {"base": merged_from.base, "adapter": merged_from.adapter}
    return {"checkpoint": digest} | parts


def evaluation_inputs(settings: Mapping[str, object]) -> dict[str, str]:
    """Return the inputs that are settings of the evaluation; `settings`: by name."""
    return {f"evaluation.{name}": str(value) for name, value in settings.items()}


def inputs_of(manifest: Manifest, evidence: Evidence) -> dict[str, str]:
    """Return what a bundle and its evidence say of their inputs."""
    digest, separator, windows = evidence.text.partition(", ")
    weights = checkpoint_inputs(manifest.checkpoint, manifest.merged_from)
    inputs = weights | tool_inputs(manifest.tools) | calibration_inputs(manifest)
    return inputs | ({f"tokens of {windows}": digest} if separator else {})


def calibration_inputs(manifest: Manifest) -> dict[str, str]:
    """Return what a bundle was calibrated with; nothing where it was not."""
    entry = manifest.recipe.calibration
    return {} if entry is None else {f"{CALIBRATION_INPUT}{entry.level}": entry.text}


def inputs_to_tag(inputs: Mapping[str, str]) -> str:
    """Return the tag's value."""
    return json.dumps(dict(inputs), ensure_ascii=False, sort_keys=True, allow_nan=False)


def require_same_inputs(
    model: str, version: Version, inputs: Mapping[str, str], rows: Sequence[CellVersion], *, cell: str = ""
) -> None:
    """Check inputs against those of the release's cells.

    Args:
        model: the model.
        version: its release.
        inputs: of what will be added to the release.
        rows: the model's versions, of all releases.
        cell: whose inputs these are; its own earlier version doesn't count. Empty for those of a whole release.

    Raises:
        RegistryError: a cell has another value of an input. Both are named.
    """
    for row in sorted((row for row in rows if row.release == version and row.cell != cell), key=_age):
        for name in sorted(inputs.keys() & row.inputs.keys()):
            if inputs[name] != row.inputs[name]:
                what = f"cell {cell} has" if cell else "it is"
                raise RegistryError(
                    f"{model}:{version} is one release: its cell {row.cell} has {_named(name)} {row.inputs[name]}, and "
                    f"here {what} {inputs[name]}; nothing was registered",
                    fix="raise the version in phipack.toml, or use what the release began with",
                )


def _named(name: str) -> str:
    return name.replace("tool.", "tool ", 1) if name.startswith("tool.") else name


def _age(row: CellVersion) -> tuple[object, ...]:
    return row.created, row.registered_model, row.number


def is_older(one: CellVersion, other: CellVersion) -> bool:
    """Return whether `one` was registered before `other`: of two that contradict one another, it counts."""
    return _age(one) < _age(other)
