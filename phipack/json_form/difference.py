"""Form of `diff`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from pydantic import Field, JsonValue

from phipack.json_form.form import Form
from registry.bundle.manifest import FileEntry, WeightClass
from registry.diff.compare import Change, Difference, FigureChange, Side, TensorChanges
from registry.diff.contents import Tensor
from targets.evidence import Figure

ChangeKind = Literal["added", "removed", "changed", "same"]
T = TypeVar("T")


class FileForm(Form):
    """A file of a bundle."""

    path: str
    size_bytes: int
    sha256: str


class WeightsForm(Form):
    """Weights that are stored in one type."""

    storage: str
    tensors: int
    size_bytes: int


class TensorForm(Form):
    """A tensor of a weight file."""

    storage: str
    shape: list[int]
    digest: str


class FactChangeForm(Form):
    """A key of the manifest, such as `generation.stop_token_ids`, with its values."""

    name: str
    change: ChangeKind
    before: JsonValue
    after: JsonValue


class FileChangeForm(Form):
    """A file on both sides."""

    name: str
    change: ChangeKind
    before: FileForm | None
    after: FileForm | None


class WeightsChangeForm(Form):
    """Weights of one type on both sides."""

    name: str
    change: ChangeKind
    before: WeightsForm | None
    after: WeightsForm | None


class TensorChangeForm(Form):
    """A tensor on both sides."""

    name: str
    change: ChangeKind
    before: TensorForm | None
    after: TensorForm | None


class KeyChangeForm(Form):
    """A key of the weight file on both sides."""

    name: str
    change: ChangeKind
    before: str | None
    after: str | None


class FigureChangeForm(Form):
    """A figure of the evidence on both sides, also where it is the same."""

    name: str
    change: ChangeKind
    before: Figure | None
    after: Figure | None
    difference: float | None


class TensorsForm(Form):
    """Tensors that differ. `problem`: why they can't be compared."""

    before_count: int
    after_count: int
    tensors: list[TensorChangeForm]
    keys: list[KeyChangeForm]
    problem: str | None


class SideForm(Form):
    """One of the two bundles."""

    name: str
    digest: str
    size_bytes: int
    evidence_text: str | None = Field(description="what its evidence was measured on; null where there is none")
    problem: str | None = Field(description="why registered evidence can't be shown")


class DifferenceForm(Form):
    """What changed from one bundle to another. A side is null where only the other version has the cell."""

    cell: str | None
    differs: bool
    before: SideForm | None
    after: SideForm | None
    facts: list[FactChangeForm]
    files: list[FileChangeForm]
    weights: list[WeightsChangeForm]
    tensors: TensorsForm | None = Field(description="null where weight files are the same, or were not read")
    chat_template: str | None = Field(description="unified diff")
    figures: list[FigureChangeForm]


class DiffForm(Form):
    """What changed, cell by cell."""

    differs: bool
    differences: list[DifferenceForm]


def diff_form(differences: Sequence[Difference]) -> DiffForm:
    """Describe differences."""
    return DiffForm(
        differs=any(one.differs for one in differences), differences=[_difference_form(one) for one in differences]
    )


def _difference_form(found: Difference) -> DifferenceForm:
    return DifferenceForm(
        cell=found.cell,
        differs=found.differs,
        before=_side_form(found.before),
        after=_side_form(found.after),
        facts=[FactChangeForm(**_sides(one, lambda value: value)) for one in found.facts],
        files=[FileChangeForm(**_sides(one, _file_form)) for one in found.files],
        weights=[WeightsChangeForm(**_sides(one, _weights_form)) for one in found.weights],
        tensors=None if found.tensors is None else _tensors_form(found.tensors),
        chat_template="\n".join(found.template) or None,
        figures=[_figure_form(one) for one in found.figures],
    )


def _sides(change: Change[T], form: Callable[[T], object]) -> dict[str, Any]:
    before, after = (None if side is None else form(side) for side in (change.before, change.after))
    return {"name": change.name, "change": change.kind, "before": before, "after": after}


def _side_form(side: Side | None) -> SideForm | None:
    if side is None:
        return None
    return SideForm(
        name=side.name,
        digest=side.manifest.digest,
        size_bytes=side.manifest.total_bytes,
        evidence_text=None if side.evidence is None else side.evidence.text,
        problem=side.problem,
    )


def _file_form(file: FileEntry) -> FileForm:
    return FileForm(path=file.path, size_bytes=file.bytes, sha256=file.sha256)


def _weights_form(weights: WeightClass) -> WeightsForm:
    return WeightsForm(storage=weights.storage, tensors=weights.tensors, size_bytes=weights.bytes)


def _tensor_form(tensor: Tensor) -> TensorForm:
    return TensorForm(storage=tensor.storage, shape=list(tensor.shape), digest=tensor.digest)


def _tensors_form(found: TensorChanges) -> TensorsForm:
    return TensorsForm(
        before_count=found.before_count,
        after_count=found.after_count,
        tensors=[TensorChangeForm(**_sides(one, _tensor_form)) for one in found.tensors],
        keys=[KeyChangeForm(**_sides(one, str)) for one in found.keys],
        problem=found.problem,
    )


def _figure_form(change: FigureChange) -> FigureChangeForm:
    return FigureChangeForm(**_sides(change, lambda figure: figure), difference=change.difference)
