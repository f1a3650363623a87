"""What changed from one bundle to another: files, facts of the manifest, weights, tensors, template, evidence.

Two bundles differ if their digests do. Evidence is reported as well, and makes no difference by itself: the same bundle
measured again has other speeds.

Which tensors changed is read from the weight files themselves (`contents.py`), where these changed. A manifest's chunks
have no names: they say how much an update costs, not which tensor it is.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Generic, Literal, TypeVar

from registry.bundle.folder import Bundle, open_bundle
from registry.bundle.manifest import FileEntry, Manifest, WeightClass
from registry.diff.contents import Contents, Open, Tensor
from registry.diff.coreml_contents import coreml_contents
from registry.diff.gguf_contents import gguf_contents
from registry.diff.onnx_contents import onnx_contents
from registry.ledger.ledger import Ledger
from registry.ledger.versions import CellVersion
from registry.store.protocol import Store
from registry.store.uris import open_store
from targets.errors import BundleError, PhipackError, RegistryError
from targets.evidence import FIGURES, Evidence, Figure

_CONTENTS: dict[str, Callable[[Manifest, Open], Contents]] = {
    "gguf": gguf_contents,
    "onnx": onnx_contents,
    "coreml": coreml_contents,
}
_WEIGHT_SUFFIXES = {"gguf": (".gguf",), "onnx": (".onnx", ".onnx.data"), "coreml": (".mlmodel", ".bin")}
_TEMPLATE_BYTES_LIMIT = 1 << 20
_TAG_END = re.compile(r"(?<=[%}]\})(?=.)")

T = TypeVar("T")


@dataclass(frozen=True)
class Side:
    """One of the two: a bundle, how to open its files, and what the registry knows about it.

    `cell`: None for a bundle's folder. `problem`: why its registered evidence can't be read.
    """

    name: str
    cell: str | None
    manifest: Manifest
    open_file: Open
    evidence: Evidence | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Change(Generic[T]):
    """One thing on both sides; None on a side that does not have it."""

    name: str
    before: T | None
    after: T | None

    @property
    def kind(self) -> Literal["added", "removed", "changed", "same"]:
        """Return what changed."""
        if self.before == self.after:
            return "same"
        return "added" if self.before is None else "removed" if self.after is None else "changed"


@dataclass(frozen=True)
class FigureChange(Change[Figure]):
    """A figure on both sides, changed or not."""

    @property
    def difference(self) -> float | None:
        """Return after minus before; None where one of them is missing or not finite."""
        if self.before is None or self.after is None:
            return None
        difference = self.after.value - self.before.value
        return difference if math.isfinite(difference) else None


@dataclass(frozen=True)
class TensorChanges:
    """Tensors and other keys of the weight files that changed, of how many; or why they can't be compared."""

    tensors: tuple[Change[Tensor], ...] = ()
    keys: tuple[Change[str], ...] = ()
    before_count: int = 0
    after_count: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Difference:
    """What changed between two sides. A side is None where only the other release has the cell.

    `facts`: the rest of the manifest, by its keys, such as `generation.stop_token_ids`. `template`: lines of a unified
    diff of the chat template; `template_before`: all lines of the first one. `tensors`: None where the weight files are
    the same, or were not read.
    """

    cell: str | None
    before: Side | None
    after: Side | None
    files: tuple[Change[FileEntry], ...] = ()
    facts: tuple[Change[Any], ...] = ()
    weights: tuple[Change[WeightClass], ...] = ()
    template: tuple[str, ...] = ()
    template_before: tuple[str, ...] = ()
    tensors: TensorChanges | None = None
    figures: tuple[FigureChange, ...] = ()

    @property
    def differs(self) -> bool:
        """Return True where the bundles are different ones, or one is missing."""
        return self.before is None or self.after is None or self.before.manifest.digest != self.after.manifest.digest


def folder_side(folder: Path) -> Side:
    """Return the side of a bundle's folder. Raises `BundleError`."""
    bundle = open_bundle(folder)
    return Side(str(folder), None, bundle.manifest, partial(_open_in, bundle))


def stored_side(store: Store, name: str, cell: str, manifest: Manifest, evidence: Evidence) -> Side:
    """Return the side of a bundle that is in a store, registered or not."""
    return Side(name, cell, manifest, partial(_open_of, store), evidence)


def version_side(ledger: Ledger, version: CellVersion) -> Side:
    """Return a registered version's side, read from the ledger's store where it has it, else from the recorded one.

    Raises:
        StoreError: neither has its manifest. RegistryError: MLflow can't be reached.
    """
    digest = version.digest
    store = ledger.store if ledger.store.blob_bytes(digest) is not None else open_store(version.store)
    evidence, problem = None, None
    try:
        evidence = ledger.evidence(version)
    except RegistryError as error:
        problem = error.problem
    return Side(version.reference, version.cell, store.manifest(digest), partial(_open_of, store), evidence, problem)


def pairs(before: Sequence[Side], after: Sequence[Side]) -> list[tuple[Side | None, Side | None]]:
    """Pair the sides by cell; if there is one on each side, they are a pair whatever their names.

    Raises:
        BundleError: a folder against several cells.
    """
    if len(before) == len(after) == 1:
        return [(before[0], after[0])]
    for side in (*before, *after):
        if side.cell is None:
            many = after if side in before else before
            raise BundleError(
                f"{side.name} is one bundle, the other side has {len(many)} cells",
                fix=f"choose a cell: {many[0].name}",
            )
    by_cell = [{side.cell: side for side in sides if side.cell} for sides in (before, after)]
    return [(by_cell[0].get(cell), by_cell[1].get(cell)) for cell in sorted(by_cell[0].keys() | by_cell[1].keys())]


def compare(before: Side | None, after: Side | None, *, read_tensors: bool = True) -> Difference:
    """Return what changed. `read_tensors`: read the weight files that changed, to compare their tensors.

    Raises:
        PhipackError: the chat template can't be read. What is wrong with a weight file is part of the result.
    """
    if before is None or after is None:
        there = before or after
        return Difference(None if there is None else there.cell, before, after)
    old, new = before.manifest, after.manifest
    files = _file_changes(old, new)
    template, template_before = _template_changes(before, after)
    return Difference(
        cell=before.cell if before.cell == after.cell else None,
        before=before,
        after=after,
        files=files,
        facts=changes(_facts(old), _facts(new)),
        weights=changes(_weights(old), _weights(new)),
        template=template,
        template_before=template_before,
        tensors=_tensor_changes(before, after) if read_tensors and _weights_changed(old, new, files) else None,
        figures=_figure_changes(before.evidence, after.evidence),
    )


def changes(before: Mapping[str, T], after: Mapping[str, T]) -> tuple[Change[T], ...]:
    """Return what is not the same in both, in their order."""
    names = dict.fromkeys((*before, *after))
    found = (Change(name, before.get(name), after.get(name)) for name in names)
    return tuple(change for change in found if change.kind != "same")


def _file_changes(old: Manifest, new: Manifest) -> tuple[Change[FileEntry], ...]:
    """Compare by digest: other differences of a manifest's entry are no change of the file."""
    entries = [{entry.path: entry for entry in manifest.files} for manifest in (old, new)]
    found = changes(*({path: entry.sha256 for path, entry in side.items()} for side in entries))
    names = sorted(change.name for change in found)
    return tuple(Change(name, entries[0].get(name), entries[1].get(name)) for name in names)


def _facts(manifest: Manifest) -> dict[str, Any]:
    """Return the manifest without files and weight classes, which are compared by themselves."""
    content = manifest.model_dump(
        mode="json", by_alias=True, exclude={"files": True, "recipe": {"weights"}, "requires": True}
    )
    facts: dict[str, Any] = {}
    for name, value in content.items():
        facts |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    if (needed := manifest.requires) is not None:
        facts |= {f"requires.{need.runtime}": str(need) for need in needed.runtimes}
        facts["requires.features"] = list(needed.features)
    return facts


def _weights(manifest: Manifest) -> dict[str, WeightClass]:
    return {weight.storage: weight for weight in manifest.recipe.weights}


def _figure_changes(before: Evidence | None, after: Evidence | None) -> tuple[FigureChange, ...]:
    old, new = before.figures if before else {}, after.figures if after else {}
    names = [name for name in FIGURES if name in old or name in new]
    names += sorted((old.keys() | new.keys()) - set(FIGURES))
    return tuple(FigureChange(name, old.get(name), new.get(name)) for name in names)


def _weights_changed(old: Manifest, new: Manifest, files: Sequence[Change[FileEntry]]) -> bool:
    suffixes = (*_WEIGHT_SUFFIXES.get(old.recipe.format, ()), *_WEIGHT_SUFFIXES.get(new.recipe.format, ()))
    return old.recipe.format == new.recipe.format and any(change.name.endswith(suffixes) for change in files)


def _tensor_changes(before: Side, after: Side) -> TensorChanges:
    read = _CONTENTS[before.manifest.recipe.format]
    try:
        old, new = (read(side.manifest, side.open_file) for side in (before, after))
    except PhipackError as error:
        return TensorChanges(problem=error.problem)
    return TensorChanges(
        changes(old.tensors, new.tensors), changes(old.keys, new.keys), len(old.tensors), len(new.tensors)
    )


def _template_changes(before: Side, after: Side) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the lines of a unified diff, and those of the first side; nothing where the two are the same."""
    entries = [_template_entry(side.manifest) for side in (before, after)]
    if entries[0] is not None and entries[1] is not None and entries[0].sha256 == entries[1].sha256:
        return (), ()
    old, new = _template_lines(before), _template_lines(after)
    return tuple(difflib.unified_diff(old, new, before.name, after.name, lineterm="")), tuple(old)


def _template_entry(manifest: Manifest) -> FileEntry | None:
    name = manifest.generation.chat_template
    return next((entry for entry in manifest.files if entry.path == name), None)


def template_text(side: Side) -> str | None:
    """Return a side's chat template; None where it has none. Raises `BundleError` where it can't be read whole."""
    entry = _template_entry(side.manifest)
    if entry is None:
        return None
    if entry.bytes > _TEMPLATE_BYTES_LIMIT:
        raise BundleError(
            f"{side.name}: {entry.path} has {entry.bytes:,} bytes; of a chat template at most"
            f" {_TEMPLATE_BYTES_LIMIT:,} are read",
            fix="shorten the checkpoint's chat template, and build the bundle again",
        )
    with side.open_file(entry) as stream:
        try:
            return stream.read(_TEMPLATE_BYTES_LIMIT).decode("utf-8", "replace")
        except OSError as error:
            raise BundleError(
                f"{side.name}: {entry.path} can't be read: {error}", fix="fetch or build that bundle again"
            ) from error


def _template_lines(side: Side) -> list[str]:
    """Return the template's lines; where it is written in one line, as most are, one for each tag.

    After a line break at its end comes one more line, which is empty: such a line break is part of the template.
    """
    text = template_text(side)
    if text is None:
        return []
    lines = text.split("\n")
    return lines if sum(map(bool, lines)) > 1 else [*_TAG_END.split(lines[0]), *lines[1:]]


def _open_in(bundle: Bundle, entry: FileEntry) -> BinaryIO:
    path = bundle.file(entry.path)
    try:
        return path.open("rb")
    except OSError as error:
        raise BundleError(f"{path} can't be read: {error.strerror}", fix="build or fetch it again") from error


def _open_of(store: Store, entry: FileEntry) -> BinaryIO:
    return store.open_blob(entry.digest)
