"""Staged rollout: which release of a channel an installation gets. Pure.

A channel holds stages for each cell, newest first: `1.5.0` for a tenth, before it `1.4.0` for all. An installation
gets the first stage that its place in that release's order falls into. The order is a hash, so that nobody is always
among the first; a place does not change, so that a wider stage holds all whom it held before, and nobody goes back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from targets.errors import PublicationError

ALL = 10_000  # of basis points


class Stage(BaseModel):
    """A release, and the share of installations that may have it, in hundredths of a percent."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    release: str
    basis_points: int = Field(gt=0, le=ALL)


def place_in_order(model: str, release: str, install_id: str) -> int:
    """Give an installation's place, 0 to 9,999.

    N, the first eight bytes of the SHA-256 of model, release and ID with line feeds between (UTF-8), the highest byte
    first, is scaled: N x 10,000 / 2^64, rounded down.
    """
    digest = hashlib.sha256(f"{model}\n{release}\n{install_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") * ALL >> 64


def stage_of(model: str, stages: Sequence[Stage], install_id: str | None) -> Stage | None:
    """Give the stage that an installation gets, None where none is for it yet; nameless ones come last."""
    for one in stages:
        place = ALL - 1 if install_id is None else place_in_order(model, one.release, install_id)
        if place < one.basis_points:
            return one
    return None


def stages_after(stages: Sequence[Stage], release: str, basis_points: int) -> list[Stage]:
    """Give the stages once `release` is for `basis_points` of the installations.

    Stages behind it stay until one is for all: who has a release of a stage that was never finished keeps it. Going
    back to a release that is among them drops those before it.

    Raises:
        PublicationError: the release is to be for fewer than before.
    """
    names = [one.release for one in stages]
    out = stages[names.index(release)].basis_points if release in names else 0
    if basis_points < out:
        raise PublicationError(
            f"{release} is out for {out / 100:g} % already; {basis_points / 100:g} % would take it back from phones",
            fix=f"publish it with --rollout {out / 100:g} or more, or promote another release and publish that",
        )
    behind = list(stages[names.index(release) + 1 :]) if release in names else list(stages)
    after = [Stage(release=release, basis_points=basis_points), *behind]
    full = next((place for place, one in enumerate(after) if one.basis_points == ALL), len(after))
    return after[: full + 1]
