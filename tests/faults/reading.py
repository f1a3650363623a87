"""Commands that only read: they change nothing, in no folder, whatever they print."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from phipack.diagnosis.services import check_store
from tests.faults.ground import Ground
from tests.faults.publishing import prepare_publication
from tests.faults.releasing import PROJECT
from tests.faults.stores import STORE
from tests.support.checkpoints import write_tiny

_BUNDLE = "bundles/1.1.0"
READING: Mapping[str, tuple[str, ...]] = {
    "completion": ("bash",),
    "diff": ("phi:1.0.0@pixel-9", "phi:1.1.0@pixel-9"),
    "fit": ("checkpoint", "--target", "iphone-15"),
    "history": ("phi",),
    "inspect": (_BUNDLE, "--verify"),
    "ls": (),
    "matrix": ("tiny.toml", "--format", "json"),
    "plan": ("tiny.toml",),
    "recipes": (),
    "schema": ("project",),
    "show": ("phi:production",),
    "targets ls": (),
    "targets show": ("iphone-15",),
}
# They read too; what runs them is heavy, or needs what is built.
HEAVY = {
    "devices ls": "starts adb's server: tests/builders/devices",
    "workers": "asks a cluster: tests/builders/matrix/cluster",
    "generate": "opens a bundle in its own runtime: tests/builders/runtime/test_generation.py",
}


def prepare(ground: Ground) -> None:
    """A registry with a published release, and a project file with its checkpoint."""
    prepare_publication(ground)
    write_tiny(Path("checkpoint"))
    Path("tiny.toml").write_text(PROJECT, "utf-8")


def look_at_the_store(_: Ground) -> int:
    """Do what `phipack doctor` writes: it tries the store. All else that it looks at takes a minute, and only reads."""
    try:
        check = check_store(str(STORE)).check
    except KeyboardInterrupt:
        return 130  # as the command line ends
    if check.status == "ok":
        return 0
    sys.stderr.write(f"{check.found}\nfix: {check.fix}\n")
    return 1
