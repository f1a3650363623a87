"""Whether a channel is there, and whether a new one's name is a slip. Pure.

Any name makes a channel, so a misspelt one would be promoted to, reported as a success, and asked for by no app. A name
that is nearly that of a channel is therefore refused, unless a new channel is asked for in so many words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from registry.ledger.channel_moves import Move
from registry.ledger.versions import PRODUCTION, CellVersion, channels_at
from targets.errors import RegistryError, did_you_mean
from targets.project import Roles

USUAL = ("candidate", "staging", PRODUCTION)  # what documentation and options name
_SHORT = 4  # letters; names that are not longer are a slip apart by one, others by two


def require_meant(model: str, channel: str, standing: Collection[str], roles: Roles | None) -> None:
    """Refuse a new channel whose name is nearly that of another one.

    Args:
        model: whose channel.
        channel: what is promoted to.
        standing: the model's channels that point at a version.
        roles: the project file's lists, whose channels are meant, too.

    Raises:
        RegistryError: the name is a slip away from a channel's. Nothing was moved.
    """
    listed = () if roles is None else roles.promoters.keys()
    if channel in standing or channel in listed or channel in USUAL:
        return
    for known in sorted({*standing, *listed, *USUAL}):
        if _slips(channel, known) <= (1 if min(len(channel), len(known)) <= _SHORT else 2):
            raise RegistryError(
                f"{model} has no channel {channel!r}; nothing was moved",
                fix=f"did you mean {known!r}? If a new channel is meant: --new-channel",
            )


def unknown_channel(
    model: str, channel: str, rows: Sequence[CellVersion], moves: Sequence[Move]
) -> RegistryError | None:
    """Return the error for a channel that points at nothing and that no move names; None for one that is known."""
    known = channels_at(rows) | {move.channel for move in moves if move.state == "done"}
    if channel in known:
        return None
    fix = did_you_mean(channel, known) if known else f"promote a version to it: phipack promote {model}:VERSION --to …"
    return RegistryError(f"{model} has no channel {channel!r}", fix=fix)


def _slips(one: str, other: str) -> int:
    """Return how many letters must be added, removed, replaced or swapped with the next to make one the other."""
    rows = [list(range(len(other) + 1))]
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            least = min(rows[-1][j] + 1, row[j - 1] + 1, rows[-1][j - 1] + (letter != wanted))
            if i > 1 and j > 1 and (letter, one[i - 2]) == (other[j - 2], wanted):
                least = min(least, rows[-2][j - 2] + 1)
            row.append(least)
        rows.append(row)
    return rows[-1][-1]
