"""Roles: who may move which channel. Pure.

A release notes the project file's lists in the registry, and from there they hold wherever the command is run. Where no
release has noted one, the list of the channel's last move holds. A project file that is at hand can narrow it, never
widen it. A name on a list is a person's on any host (`alice`) or on one (`release-bot@ci-1`).

The command enforces this and the history keeps it. It stops accidents: names are what the operating system says
(`LOGNAME=alice` is enough), and an account that may write to MLflow can move aliases without phipack. MLflow's own
accounts and permissions are the guard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from registry.ledger.channel_moves import Move
from registry.ledger.release_plan import promoters_of
from targets.errors import RegistryError
from targets.project import Roles


def require_promoter(
    who: str, channel: str, moves: Sequence[Move], roles: Roles | None, noted: Mapping[str, str] | None = None
) -> tuple[str, ...] | None:
    """Return the list that lets `who` move the channel, None where everybody may.

    Args:
        who: the name.
        channel: what will move.
        moves: the model's, newest first.
        roles: the lists of the model's project file, where one is at hand.
        noted: the tags in which releases have noted lists (`release_plan.py`).

    Raises:
        RegistryError: `who` is not on a list that applies.
    """
    from_file = None if roles is None else roles.promoters.get(channel)
    if roles is not None:
        _require_listed(who, channel, from_file, f"[channels.{channel}] in {roles.source}")
    recorded = promoters_of(noted or {}, channel)
    if recorded is not None:
        _require_listed(who, channel, recorded.names, f"noted by the release of {recorded.release}")
        return from_file or recorded.names
    last = next((move for move in moves if move.channel == channel and move.state == "done"), None)
    if last is not None:
        _require_listed(who, channel, last.promoters, f"kept since the {last.title}")
    return from_file if roles is not None or last is None else last.promoters


def _require_listed(who: str, channel: str, promoters: Sequence[str] | None, source: str) -> None:
    if promoters is None or who in promoters or who.rpartition("@")[0] in promoters:
        return
    raise RegistryError(
        f"{who} may not move channel {channel}: its promoters are {', '.join(promoters)} ({source}); nothing was moved",
        fix=f"ask one of them; or have [channels.{channel}] promoters = […] changed in the project file, and phipack"
        " release run with it",
    )
