"""What a report is made from. `phipack.api.reporting` collects it; nothing here reads a file or asks a registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from builders.report.same_prompts import SamePrompts
from builders.report.void_checks import without_void
from registry.bundle.manifest import Manifest
from registry.diff.compare import Difference
from registry.diff.layers import LayerChanges
from registry.ledger.channel_moves import Move
from registry.ledger.versions import CellVersion
from targets.devices import Target
from targets.evidence import Evidence
from targets.evidence_details import Details
from targets.measurement import Measurement


@dataclass(frozen=True)
class Subject:
    """One bundle with what is known of it.

    Attributes:
        name: its reference, or the path of its folder.
        cell: the cell's name; the path's last part for a folder.
        manifest: its manifest.
        evidence: None where it can't be read; `problem` then says why.
        problem: see above.
        measurements: on devices.
        version: how it is registered; None for a folder.
        target: the device class; None where the evidence names none, or one that this phipack does not know.
        tokens: the text of stop ids and BOS, as the bundle's tokenizer files have it; empty where they can't be read.
        needs_whole_name: its version alone does not tell it from the other side.
    """

    name: str
    cell: str
    manifest: Manifest
    evidence: Evidence | None
    problem: str = ""
    measurements: tuple[Measurement, ...] = ()
    version: CellVersion | None = None
    target: Target | None = None
    tokens: Mapping[int, str] = field(default_factory=dict)
    needs_whole_name: bool = False

    @property
    def details(self) -> Details | None:
        """What stands behind the evidence's figures, where it is known; without checks that can't fail."""
        found = None if self.evidence is None else self.evidence.details
        return None if found is None else without_void(found)


@dataclass(frozen=True)
class Recorded:
    """A registered bundle that can't be read, as its store is unreachable: all that is known is its evidence."""

    name: str
    evidence: Evidence
    version: CellVersion
    problem: str = ""
    needs_whole_name: bool = False

    @property
    def details(self) -> Details | None:
        """What stands behind the evidence's figures, as `Subject.details`."""
        return None if self.evidence.details is None else without_void(self.evidence.details)


def side_name(side: Subject | Recorded) -> str:
    """Return what a side is called next to the other one: its version, else its name."""
    return side.name if side.version is None or side.needs_whole_name else str(side.version.release)


@dataclass(frozen=True)
class Earlier:
    """Mean KL divergence of another release, `name`, by the same recipe and on the same text."""

    name: str
    kl_mean: float


@dataclass(frozen=True)
class CellContent:
    """One cell: the candidate, and what it is compared with.

    `baseline`, `difference`: None where there is nothing; `problem` then says why, where it could not be read.
    `recorded`: what the registry has of a baseline that could not be read.
    `earlier`: other releases by the same recipe, the newest first; None where nobody has looked for them.
    `prompts`: what both chat templates write, where they differ.
    `layers`: whose weights are others; None where nobody has looked, or it can't be known.
    `reason`: why the candidate's release is made, by its project file; empty where it does not say.
    `same_tokenizer`: whether tokenizer.json says the same on both sides, where its bytes differ.
    """

    candidate: Subject
    baseline: Subject | None = None
    difference: Difference | None = None
    problem: str = ""
    earlier: tuple[Earlier, ...] | None = None
    prompts: SamePrompts | None = None
    recorded: Recorded | None = None
    layers: LayerChanges | None = None
    reason: str = ""
    same_tokenizer: bool = False

    @property
    def before(self) -> Subject | Recorded | None:
        """What has the baseline's evidence: itself, or what the registry has of it."""
        return self.baseline or self.recorded

    @property
    def has_other_reference(self) -> bool:
        """Whether the bundle and the baseline were compared with different checkpoints."""
        old, new = None if self.before is None else self.before.evidence, self.candidate.evidence
        return old is not None and new is not None and old.checkpoint != new.checkpoint

    @property
    def writes_same_prompts(self) -> bool:
        """Whether another chat template was found to write the same."""
        return self.prompts is not None and not self.prompts.different and not self.prompts.problem


def named_apart(cell: CellContent) -> CellContent:
    """Return a cell whose sides have names that differ: a version says little next to another model, or to itself."""
    old, new = None if cell.before is None else cell.before.version, cell.candidate.version
    if old is None or new is None or (old.model == new.model and old.release != new.release):
        return cell
    return replace(
        cell,
        candidate=replace(cell.candidate, needs_whole_name=True),
        baseline=None if cell.baseline is None else replace(cell.baseline, needs_whole_name=True),
        recorded=None if cell.recorded is None else replace(cell.recorded, needs_whole_name=True),
    )


@dataclass(frozen=True)
class Content:
    """A report's content.

    Attributes:
        title: what was asked for, such as `phi-3-mini:1.1.0`.
        cells: the cells that it stands for.
        against: what it is compared with, such as `phi-3-mini:production`; empty where there is nothing.
        missing: cells that the release plans and that are not registered.
        outside: cells that the release plans and that are registered, but not in what was asked for, such as a channel.
        gone: cells of the baseline that the candidate does not have.
        moves: the moves of the model's channels, newest first; None for a report that is made before any can be.
        made: when the report was made; None for one that must not depend on the time.
        tool: name and version of the program that made it.
        links: addresses of MLflow's pages by cell, where the registry is a server.
    """

    title: str
    cells: Sequence[CellContent]
    against: str = ""
    missing: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    moves: tuple[Move, ...] | None = None
    made: datetime | None = None
    tool: str = "phipack"
    links: dict[str, str] = field(default_factory=dict)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the releases that the cells are of are made, each once."""
        return tuple(dict.fromkeys(cell.reason for cell in self.cells if cell.reason))
