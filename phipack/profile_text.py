"""A profile as a table: the phases of each subject, what is not attributed, and the whole."""

from __future__ import annotations

from phipack.profile import Profile, Spent
from phipack.tables import table
from targets.formatting import duration, share, size

_COLUMNS = ("of", "phase", "time", "share", "processors", "peak memory", "read or written")


def profile_text(profile: Profile) -> str:
    """Lay out what a command's phases took."""

    def row(subject: str, phase: str, spent: Spent, worked: int | None = None) -> tuple[str | None, ...]:
        return (
            subject or None,
            phase,
            duration(spent.seconds),
            share(spent.seconds / (profile.seconds or 1.0)),
            None if spent.processor_seconds is None else duration(spent.processor_seconds),
            None if spent.peak_memory_bytes is None else size(spent.peak_memory_bytes),
            None if worked is None else size(worked),
        )

    rows = [row(part.subject, use.phase, use, use.worked_bytes) for part in profile.subjects for use in part.phases]
    rows += [row("", "not attributed", profile.unattributed), row("", "all", profile)]
    return table(_COLUMNS, rows)
