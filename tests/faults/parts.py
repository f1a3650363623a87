"""A bundle cut into parts, and joined again."""

from __future__ import annotations

from pathlib import Path

from phipack.__main__ import main
from registry.bundle.folder import verify
from registry.bundle.parts import join
from tests.faults.fetching import OUT
from tests.faults.ground import Ground, Run, names, phipack
from tests.faults.pieces import NEW, OLD, write_pieces

PARTS = Path("place/parts")
_SPLIT = ("split", "new", "-o", str(PARTS), "--max-part-bytes", "300000", "--replace")


def prepare_split(_: Ground) -> None:
    """Parts of an older bundle stand where those of the new one are to be."""
    write_pieces(Path("new"), OLD)
    assert main([*_SPLIT]) == 0
    write_pieces(Path("new"), NEW)


def prepare_join(ground: Ground) -> None:
    """The new bundle's parts, and an older bundle where it is to be."""
    prepare_split(ground)
    assert main([*_SPLIT]) == 0
    PARTS.rename("parts")
    write_pieces(OUT, OLD)


def parts_are_whole(_: Ground) -> None:
    """The parts join, to one of the bundles; or between two renames there are none."""
    if PARTS.exists():
        verify(join(PARTS, Path("joined"), replace=True))


def split_is_done(_: Ground) -> None:
    """The parts join to the new bundle."""
    bundle = join(PARTS, Path("joined"), replace=True)
    assert bundle.file("model.gguf").read_bytes() == b"".join(NEW)
    assert len(names(PARTS)) > 1


def parts_are_alone(_: Ground) -> None:
    """There is nothing else next to the parts."""
    assert names(PARTS.parent) == ["parts"]


SPLIT: Run = phipack(*_SPLIT)
JOIN: Run = phipack("join", "parts", "-o", str(OUT), "--replace")
