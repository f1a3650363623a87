"""Releases of a channel that are kept for apps with older runtimes. Pure.

When a release takes another one's place, and needs more of a runtime, apps in the field without it would find nothing
new, and an installation of today's older app nothing at all. So the channel's document goes on to name the release
before: signed like everything in it, and offered only to an app that says which runtimes it has and can't run what is
newer. A client that does not say so never sees it, and an attacker gains nothing: which versions a client may be given
is still decided by the publisher's newest metadata.

Kept is only what is lower than every stage (so that what was rolled back is gone for good), what was out for everybody,
and what some app can run that nothing newer serves; at most `LIMIT` releases a cell.
"""

from __future__ import annotations

from collections.abc import Callable

from registry.catalog.documents import CellEntry, ChannelDocument, ReleaseDocument
from registry.catalog.rollout import ALL
from targets.references import Version
from targets.runtimes.requirement import covers

LIMIT = 5


def with_earlier(
    channel: ChannelDocument, before: ChannelDocument | None, release: Callable[[str], ReleaseDocument | None]
) -> ChannelDocument:
    """Return a channel's next document with the earlier releases of each cell.

    Args:
        channel: what it will point at.
        before: its document until now, None where it is new.
        release: returns a release's document, None where it is not published.
    """
    if before is None:
        return channel
    earlier = {}
    for cell in channel.cells:
        if kept := _kept(cell, channel, before, release):
            earlier[cell] = kept
    return channel.model_copy(update={"earlier": earlier})


def _kept(
    cell: str,
    channel: ChannelDocument,
    before: ChannelDocument,
    release: Callable[[str], ReleaseDocument | None],
) -> tuple[str, ...]:
    lowest = min(Version.parse(stage.release) for stage in channel.cells[cell])
    had = [stage.release for stage in before.cells.get(cell, ()) if stage.basis_points == ALL]
    had += before.earlier.get(cell, ())
    lower = sorted({version for name in had if (version := Version.parse(name)) < lowest}, reverse=True)
    full = [stage.release for stage in channel.cells[cell] if stage.basis_points == ALL]
    newer = [entry for name in full if (entry := _entry(cell, release(name))) is not None]
    kept: list[str] = []
    for version in lower:
        entry = _entry(cell, release(str(version)))
        if entry is not None and len(kept) < LIMIT and not any(_serves(other, entry) for other in newer):
            kept.append(str(version))
            newer.append(entry)
    return tuple(kept)


def _entry(cell: str, document: ReleaseDocument | None) -> CellEntry | None:
    return None if document is None else document.cells.get(cell)


def _serves(newer: CellEntry, older: CellEntry) -> bool:
    """Return True where every app that can run the older bundle can run the newer one."""
    return newer.format == older.format and covers(older.requires or (), newer.requires or ())
