"""Roles: who may move which channel. Pure.

The project file's lists apply. Without a project file of the model, the list of the channel's last move does: running
the command in another folder changes nothing. A name on a list is a person's on any host (`alice`) or on one
(`release-bot@ci-1`).

The command enforces this and the history keeps it. It stops accidents: names are what the operating system says, and an
account that may write to MLflow can move aliases without phipack. MLflow's own permissions are the guard.
"""

from __future__ import annotations

from collections.abc import Sequence

from registry.ledger.channel_moves import Move
from targets.errors import RegistryError
from targets.project import Roles


def require_promoter(who: str, channel: str, moves: Sequence[Move], roles: Roles | None) -> tuple[str, ...] | None:
    """Return the list that lets `who` move the channel, None where everybody may; `moves`: the model's, newest first.

    Raises:
        RegistryError: `who` is not on the list that applies.
    """
    if roles is not None:
        promoters, source = roles.promoters.get(channel), f"[channels.{channel}] in {roles.source}"
    else:
        last = next((move for move in moves if move.channel == channel and move.state == "done"), None)
        promoters, source = (None, "") if last is None else (last.promoters, f"kept since the {last.title}")
    if promoters is None or who in promoters or who.rpartition("@")[0] in promoters:
        return promoters
    raise RegistryError(
        f"{who} may not move channel {channel}: its promoters are {', '.join(promoters)} ({source}); nothing was moved",
        fix=f"ask one of them, or have the project file changed: [channels.{channel}] promoters = […]",
    )
