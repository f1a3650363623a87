"""Bundles that are fetched over an older one: from a folder, a store, the web."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from registry.bundle.folder import open_bundle, verify
from registry.files.staging import STAGING_MARK
from registry.transfer.partial import PARTIAL_MARK, partial_folder
from targets.errors import BundleError
from tests.faults.channels import prepare_first_release
from tests.faults.ground import Ground, Step, names
from tests.faults.pieces import NEW, OLD, REUSED, WEIGHTS, write_pieces

OUT = Path("place/out")


def prepare_folder(_: Ground) -> None:
    """A bundle stands at OUT; the new one is in another folder."""
    assert write_pieces(OUT, OLD).digest != write_pieces(Path("new"), NEW).digest


def prepare_web(_: Ground) -> None:
    """A bundle stands at OUT; another one may be reused; and an earlier try was interrupted."""
    write_pieces(OUT, OLD)
    write_pieces(Path("other"), REUSED)
    new = write_pieces(Path("new"), NEW)
    with suppress(BundleError), partial_folder(OUT, new.digest) as partial:
        (partial / "0").write_bytes(new.file(WEIGHTS).read_bytes()[:190_000] + b"torn")
        open_bundle(partial)  # which fails: the folder is kept
    assert names(OUT.parent) != ["out"]


def prepare_stored(ground: Ground) -> None:
    """A bundle stands at OUT; the store has another one, which is registered."""
    prepare_first_release(ground)
    write_pieces(OUT, OLD)


def one_whole_bundle(_: Ground) -> None:
    """At OUT is a bundle, whole, the old or the new one; or none, and the old one is next to it, to be put back."""
    if OUT.exists():
        verify(open_bundle(OUT))
        return
    (aside,) = OUT.parent.glob(f"{STAGING_MARK}*-old-out")
    verify(open_bundle(aside / OUT.name))


def out_is_alone(_: Ground) -> None:
    """Nothing is next to OUT."""
    assert names(OUT.parent) == ["out"]


def no_staging(_: Ground) -> None:
    """Nothing is next to OUT, but what was received so far."""
    assert [name for name in names(OUT.parent) if not name.startswith(PARTIAL_MARK)] == ["out"]


def fetched(pieces: Sequence[bytes] | None = None) -> Step:
    """The new bundle, whole."""

    def done(_: Ground) -> None:
        bundle = open_bundle(OUT)
        verify(bundle)
        if pieces is not None:
            assert bundle.file(WEIGHTS).read_bytes() == b"".join(pieces)
        else:
            assert bundle.file(WEIGHTS).read_bytes() == b"1.0.0"

    return done
