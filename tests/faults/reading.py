"""Commands that only read: they change nothing, in no folder, whatever they print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from phipack.__main__ import main
from tests.faults.ground import Ground
from tests.faults.publishing import prepare_publication
from tests.support.checkpoints import write_tiny

_BUNDLE = "bundles/1.1.0"
READING: Mapping[str, tuple[str, ...]] = {
    "completion": ("bash",),
    "diff": ("phi:1.0.0@pixel-9", "phi:1.1.0@pixel-9"),
    "fit": ("checkpoint",),
    "history": ("phi",),
    "inspect": (_BUNDLE, "--verify"),
    "ls": (),
    "recipes": (),
    "schema": ("project",),
    "show": ("phi:production",),
    "targets ls": (),
    "targets show": ("iphone-15",),
}
# They read too; what runs them is heavy, or needs what is built.
HEAVY = {"generate": "opens a bundle in its own runtime: tests/builders/runtime/test_generation.py"}


def prepare(ground: Ground) -> None:
    """A registry with a published release, and a checkpoint."""
    prepare_publication(ground)
    write_tiny(Path("checkpoint"))


def doctor(_: Ground) -> int:
    """Look at everything. What it finds amiss on this machine is no matter here."""
    return 0 if main(["doctor"]) in (0, 1) else 99
