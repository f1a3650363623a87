"""Staged rollout: which release of a channel an installation gets. Pure.

A channel has stages for each cell, newest first: `1.5.0` for a tenth of the installations, then `1.4.0` for all. A hash
of release and installation is the installation's position in that release's order; it gets the first stage that
reaches its position. So nobody is always among the first. A position does not change: a wider stage includes everybody
that it included before, and nobody goes back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from targets.errors import PublicationError

ALL = 10_000  # of basis points


class Stage(BaseModel):
    """A release, and the share of installations that get it, in hundredths of a percent."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    release: str
    basis_points: int = Field(gt=0, le=ALL)


def basis_points_of(percent: float) -> int:
    """Return a share in hundredths of a percent, rounded, but less than 100 % never to all.

    Raises:
        PublicationError: it is more than 100 %, or less than a hundredth of a percent.
    """
    if not 0.01 <= percent <= 100:  # NaN included
        raise PublicationError("the share of a rollout must be at least 0.01 % and at most 100 %", fix="pass 1 to 100")
    return ALL if percent == 100 else min(round(percent * 100), ALL - 1)


def position_in_rollout(model: str, release: str, install_id: str) -> int:
    """Return an installation's position, 0 to 9,999.

    N, the first eight bytes of the SHA-256 of model, release and ID with line feeds between (UTF-8), the highest byte
    first, is scaled: N x 10,000 / 2^64, rounded down.
    """
    digest = hashlib.sha256(f"{model}\n{release}\n{install_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") * ALL >> 64


def stage_of(model: str, stages: Sequence[Stage], install_id: str | None) -> Stage | None:
    """Return the stage that an installation gets, None where none reaches it yet; one without an ID comes last."""
    for one in stages:
        position = ALL - 1 if install_id is None else position_in_rollout(model, one.release, install_id)
        if position < one.basis_points:
            return one
    return None


def share_of(stages: Sequence[Stage], release: str) -> int:
    """Return to how many installations a release is out, in basis points; 0 where it is in no stage."""
    return next((one.basis_points for one in stages if one.release == release), 0)


def stages_after(stages: Sequence[Stage], release: str, basis_points: int) -> list[Stage]:
    """Return the stages after `release` is rolled out to `basis_points` of the installations.

    Older stages stay up to the first one for all: installations that have a release of an unfinished stage keep it.
    Going back to an older stage's release drops the newer ones.

    Raises:
        PublicationError: the release would be for fewer installations than before.
    """
    names = [one.release for one in stages]
    out = share_of(stages, release)
    if basis_points < out:
        raise PublicationError(
            f"{release} is out for {out / 100:g} % already; {basis_points / 100:g} % would take it back from phones",
            fix=f"publish it with --rollout {out / 100:g} or more, or promote another release and publish that",
        )
    older = list(stages[names.index(release) + 1 :]) if release in names else list(stages)
    after = [Stage(release=release, basis_points=basis_points), *older]
    full = next((number for number, one in enumerate(after) if one.basis_points == ALL), len(after))
    return after[: full + 1]
