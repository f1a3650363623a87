"""`diff`: what changed between two versions, or two bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from phipack import completion
from phipack.commands.opening import open_registry
from phipack.options import State, pass_state
from phipack.tables import table
from targets.formatting import figure, signed_figure, signed_size, size

if TYPE_CHECKING:
    from registry.bundle.manifest import FileEntry, WeightClass
    from registry.diff.compare import Change, Difference, FigureChange, Side, TensorChanges
    from registry.diff.contents import Tensor

_SHOWN_TENSORS = 20
_SHOWN_LENGTH = 60
_DIGEST_LENGTH = 12


@click.command()
@click.argument("before", metavar="REFERENCE-OR-PATH", shell_complete=completion.references_or_paths)
@click.argument("after", metavar="REFERENCE-OR-PATH", shell_complete=completion.references_or_paths)
@click.option("--exit-code", "by_exit_code", is_flag=True, help="End with 1 where the bundles differ, as git does.")
@click.option("--no-tensors", is_flag=True, help="Don't read the weight files to find which tensors changed.")
@pass_state
def diff(
    state: State,
    before: str,
    after: str,
    by_exit_code: bool,
    no_tensors: bool,
) -> None:
    """Show what changed: files, tensors, sizes, recipe, checkpoint, metadata, chat template, evidence.

    Each side is MODEL[:VERSION|:CHANNEL|:^RANGE][@CELL], or a bundle's folder. Releases are compared cell by cell.
    Evidence is shown side by side; two sides differ if their bundles do.
    """
    from phipack.api.comparing import diff_bundles
    from phipack.json_form.difference import diff_form
    from registry.fetch import is_path

    on_progress = state.output.on_progress
    if is_path(before) and is_path(after):  # which need no registry: the project file may be wrong
        found = [diff_bundles(before, after, read_tensors=not no_tensors, on_progress=on_progress)]
    else:
        found = list(open_registry(state).diff(before, after, read_tensors=not no_tensors))
    form = diff_form(found)
    state.output.result(form.data(), "\n\n\n".join(map(_text, found)))
    if by_exit_code and form.differs:
        click.get_current_context().exit(1)


def _text(found: Difference) -> str:
    before, after = found.before, found.after
    if before is None or after is None:
        there, which = (before, "first") if before else (after, "second")
        return f"{there.name if there else ''}: only in the {which}"
    parts = [f"{before.name} -> {after.name}", _summary(before, after, same=not found.differs)]
    if short := [one for one in found.facts if not _is_texts(one)]:
        parts.append(table(("manifest", "before", "after"), [_fact_row(one) for one in short]))
    parts += [_texts_diff(one) for one in found.facts if _is_texts(one)]
    if found.files:
        parts.append(table(("file", "", "before", "after", "difference"), [_file_row(one) for one in found.files]))
    if found.weights:
        parts.append(table(("weights", "", "before", "after"), [_weight_row(one) for one in found.weights]))
    if found.tensors:
        parts += _tensor_texts(found.tensors)
    if found.template:
        parts.append("\n".join(found.template))
    if found.figures:
        columns = ("figure", "before", "after", "difference", "")
        parts.append(table(columns, [_figure_row(one) for one in found.figures]))
    return "\n\n".join([*parts, *_notes(before, after)])


def _summary(before: Side, after: Side, *, same: bool) -> str:
    old, new = before.manifest, after.manifest
    if same:
        return f"the same bundle, {old.digest}, {size(old.total_bytes)}"
    rows = [
        ("digest", _short(old.digest), _short(new.digest), None),
        ("size", size(old.total_bytes), size(new.total_bytes), signed_size(new.total_bytes - old.total_bytes)),
    ]
    return table(("bundle", "before", "after", "difference"), rows)


def _fact_row(change: Change[Any]) -> tuple[object, ...]:
    def shown(value: Any) -> str:
        if isinstance(value, dict):
            text = ", ".join(f"{name} {shown(inner)}" for name, inner in value.items())
        else:
            text = _short(value) if isinstance(value, str) and value.startswith("sha256:") else str(value)
        return "-" if value is None else text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 1] + "…"

    return change.name, shown(change.before), shown(change.after)


def _is_texts(change: Change[Any]) -> bool:
    return any(
        isinstance(value, list) and value and isinstance(value[0], str) for value in (change.before, change.after)
    )


def _texts_diff(change: Change[Any]) -> str:
    """Notes: those that are gone and those that are new, in full."""
    old, new = change.before or [], change.after or []
    lines = [f"- {text}" for text in old if text not in new] + [f"+ {text}" for text in new if text not in old]
    return "\n".join([change.name, *(lines or ["  in another order"])])


def _file_row(change: Change[FileEntry]) -> tuple[object, ...]:
    old, new = change.before, change.after
    difference = (new.bytes if new else 0) - (old.bytes if old else 0)
    return change.name, change.kind, old and size(old.bytes), new and size(new.bytes), signed_size(difference)


def _weight_row(change: Change[WeightClass]) -> tuple[object, ...]:
    def shown(weight: WeightClass | None) -> str | None:
        return None if weight is None else f"{weight.tensors} tensors, {size(weight.bytes)}"

    return change.name, change.kind, shown(change.before), shown(change.after)


def _tensor_texts(found: TensorChanges) -> list[str]:
    if found.problem is not None:
        return [f"tensors: {found.problem}"]
    counts = {kind: sum(one.kind == kind for one in found.tensors) for kind in ("changed", "added", "removed")}
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    parts = [f"tensors: {summary}; {found.before_count} before, {found.after_count} after"]
    if found.tensors:
        rows = [_tensor_row(one) for one in found.tensors[:_SHOWN_TENSORS]]
        more = len(found.tensors) - len(rows)
        text = table(("tensor", "", "before", "after"), rows)
        parts.append(text + (f"\n… and {more} more: phipack --json diff lists all" if more else ""))
    if found.keys:
        parts.append(table(("weight file's key", "before", "after"), [(k.name, k.before, k.after) for k in found.keys]))
    return parts


def _tensor_row(change: Change[Tensor]) -> tuple[object, ...]:
    def shown(tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        return f"{tensor.storage} {'x'.join(map(str, tensor.shape)) or 'scalar'} {_short(tensor.digest)}"

    return change.name, change.kind, shown(change.before), shown(change.after)


def _figure_row(change: FigureChange) -> tuple[object, ...]:
    sides = [one for one in (change.before, change.after) if one is not None]
    kinds = " -> ".join(dict.fromkeys(one.kind for one in sides))
    unit = sides[0].unit
    values = [None if one is None else figure(change.name, one.value, unit) for one in (change.before, change.after)]
    difference = None if change.difference is None else signed_figure(change.name, change.difference, unit)
    return change.name, *values, difference, kinds


def _notes(before: Side, after: Side) -> list[str]:
    notes = [f"{side.name}: {side.problem}" for side in (before, after) if side.problem is not None]
    old, new = before.evidence, after.evidence
    if old is None or new is None:
        return notes
    if old.text != new.text:
        notes.append(f"the two were measured on different texts: {old.text}; {new.text}")
    if old.checkpoint != new.checkpoint:
        notes.append("the two are compared with different checkpoints in float32: neither is better by its divergence")
    if old.target != new.target:
        notes.append(f"predictions are of different phones: {old.target or 'none'}; {new.target or 'none'}")
    suites = [None if one.details is None else one.details.suite for one in (old, new)]
    if suites[0] != suites[1]:
        notes.append(f"the two were measured by different suites: {'; '.join(one or 'not recorded' for one in suites)}")
    return notes


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_DIGEST_LENGTH]
