"""Arguments of the API: objects, or the text that the command line takes for them.

Everything that builds (`builders`) is imported inside the functions, so that a registry works without it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from registry.bundle.folder import Bundle, open_bundle
from registry.ledger.channel_moves import TEXT_LIMIT
from registry.store.protocol import Store
from registry.store.uris import open_store
from targets.devices import Target, target_named
from targets.errors import PhipackError, did_you_mean
from targets.evidence import FIGURES, Evidence, wrong_way
from targets.gates import Gate
from targets.progress import Progress, silent
from targets.project import Project, load_project
from targets.recipes import Recipe, recipe_named
from targets.references import Reference
from targets.selection import Device
from targets.strict_json import LARGEST_INTEGER
from targets.this_user import expanded

if TYPE_CHECKING:
    from builders.checkpoint import Checkpoint
    from registry.catalog.signing import KeyFolder

AnyPath = str | os.PathLike[str]
Gates = Mapping[str, Gate] | Iterable[str]  # bounds by figure, or texts such as `kl_mean<=0.05`

_GATE = re.compile(r"(?P<figure>[A-Za-z0-9_]+)\s*(?P<sign><=|>=)\s*(?P<bound>[-+.0-9eE]+)")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([A-Za-z]*)")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def as_path(given: AnyPath) -> Path:
    """Return the path; `~` is the user's home. Raises `SetupError` where that is unknown."""
    return expanded(given)


def as_reference(given: str | Reference) -> Reference:
    """Parse `MODEL[:VERSION|:CHANNEL|:^RANGE][@CELL]`. Raises `MalformedReferenceError`."""
    return given if isinstance(given, Reference) else Reference.parse(given)


def as_reason(given: str) -> str:
    """Return why a channel moves, as the history can keep it. Raises `PhipackError` where it can't, whole."""
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise PhipackError(f"the reason {given!r} is not UTF-8", fix="write it in UTF-8: see the locale") from error
    if len(given) > TEXT_LIMIT:
        raise PhipackError(
            f"the reason has {len(given):,} characters, and the history keeps {TEXT_LIMIT:,}",
            fix="shorten it, and name a document that has the rest",
        )
    return given


def as_recipe(given: str | Recipe) -> Recipe:
    """Look up a recipe by its name. Raises `RecipeError`."""
    return given if isinstance(given, Recipe) else recipe_named(given)


def as_target(given: AnyPath | Target) -> Target:
    """Look up a target by its name, or read the file at a path. Raises `TargetError`."""
    return given if isinstance(given, Target) else target_named(os.fspath(given))


def as_project(given: AnyPath | Project) -> Project:
    """Read a project file. Raises `ProjectError`."""
    return given if isinstance(given, Project) else load_project(as_path(given))


def as_bundle(given: AnyPath | Bundle) -> Bundle:
    """Open a bundle's folder. Raises `BundleError`."""
    return given if isinstance(given, Bundle) else open_bundle(as_path(given))


def as_checkpoint(given: AnyPath | Checkpoint, adapter: AnyPath | None = None) -> Checkpoint:
    """Open a checkpoint's folder, and merge an adapter's with it, if one is given. Raises `CheckpointError`."""
    from builders.checkpoint import Checkpoint, open_checkpoint
    from builders.checkpoint.adapter import merge

    opened = given if isinstance(given, Checkpoint) else open_checkpoint(as_path(given))
    return opened if adapter is None else merge(opened, as_path(adapter))


def checkpoint_of(project: Project) -> Checkpoint:
    """Open a project's checkpoint, merged with its adapter; every path that the project states must be there.

    Raises `ProjectError` for a path, with its line; `CheckpointError` for what is in the folders.
    """
    project.require_paths()
    return as_checkpoint(project.checkpoint, project.adapter)


def as_evidence(given: AnyPath | Evidence) -> Evidence:
    """Read an evidence file. Raises `MeasurementError`."""
    return given if isinstance(given, Evidence) else Evidence.read(as_path(given))


def as_store(given: AnyPath | Store, on_progress: Progress = silent) -> Store:
    """Open a store at a folder, a `file://` or an `s3://` URI. Raises `StoreError`."""
    return given if isinstance(given, Store) else open_store(os.fspath(given), on_progress=on_progress)


def as_keys(given: AnyPath | KeyFolder) -> KeyFolder:
    """Open a folder of signing keys. Raises `KeysError`."""
    from registry.catalog.signing import KeyFolder, open_keys

    return given if isinstance(given, KeyFolder) else open_keys(as_path(given))


def as_device(given: str | Device | None) -> Device:
    """Return the device; a text is its identifier, such as `iPhone15,4` or `SM-S921U`."""
    return given if isinstance(given, Device) else Device(given)


def as_gates(given: Gates) -> dict[str, Gate]:
    """Return bounds by figure. Texts are parsed by `parse_gate`. Raises `PhipackError` for two bounds on one figure."""
    return dict(given) if isinstance(given, Mapping) else one_gate_each(parse_gate(text) for text in given)


def one_gate_each(gates: Iterable[tuple[str, Gate]]) -> dict[str, Gate]:
    """Return bounds by figure. Raises `PhipackError` for two on one figure: one of them would not be checked."""
    found: dict[str, Gate] = {}
    for figure, gate in gates:
        if figure in found:
            raise PhipackError(f"{figure} has two gates: {found[figure]} and {gate}", fix="keep one of the two")
        found[figure] = gate
    return found


def parse_gate(text: str) -> tuple[str, Gate]:
    """Parse `kl_mean<=0.05` or `same_top_share>=0.9`. Raises `PhipackError` for another form.

    Also for an unknown figure, and for a bound that lets every worse bundle pass.
    """
    match = _GATE.fullmatch(text.strip())
    try:
        bound = float(match["bound"]) if match else None
    except ValueError:
        bound = None
    if match is None or bound is None or not math.isfinite(bound):
        raise PhipackError(f"{text!r} is not a gate", fix="write it as 'kl_mean<=0.05' or 'same_top_share>=0.9'")
    if match["figure"] not in FIGURES:
        raise PhipackError(
            f"{text!r} is a gate on an unknown figure {match['figure']!r}", fix=did_you_mean(match["figure"], FIGURES)
        )
    gate = Gate(at_most=bound) if match["sign"] == "<=" else Gate(at_least=bound)
    if (wrong := wrong_way(match["figure"], gate)) is not None:
        problem, fix = wrong
        raise PhipackError(f"{text!r}: {problem}", fix=fix)
    return match["figure"], gate


def parse_size(text: str | int) -> int:
    """Parse a number of bytes, with a unit or without: `1500000000`, `1.5GB`, `512 MiB`. Raises `PhipackError`."""
    if isinstance(text, int):  # one of thousands of digits has no text
        text = str(min(max(text, 0), LARGEST_INTEGER + 1))
    found = _SIZE.fullmatch(str(text).strip())
    factor = None if found is None else _UNITS.get(found[2].upper())
    if found is None or factor is None:
        raise PhipackError(f"{text!r} is not a size", fix="write 1500000000, 1.5GB or 512MiB")
    count = float(found[1]) * factor
    if not 1 <= count <= LARGEST_INTEGER:
        size = "less than a byte" if count < 1 else "more than any disk has"
        raise PhipackError(f"{str(text)[:40]!r} is {size}", fix="write 1500000000, 1.5GB or 512MiB")
    return int(count)
