"""What the experiment MODEL notes of releases: their cells and reasons, and who may move a channel. Pure.

    phipack.plan.VERSION        galaxy-s24 iphone-15: the cells of the release
    phipack.reason.VERSION      why it is made, by its project file
    phipack.promoters.CHANNEL   {"release": "1.1.0", "promoters": ["alice", …]}: the list of that release's project
                                file; null: everybody may since then; no tag: the list of the channel's last move holds

A release of a lower version does not replace what a higher one has noted: a late job changes no list.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry.ledger.versions import TAG_PREFIX
from targets.errors import MalformedReferenceError, RegistryError
from targets.references import Version
from targets.strict_json import parse_json

PLAN_TAG = TAG_PREFIX + "plan."
REASON_TAG = TAG_PREFIX + "reason."
PROMOTERS_TAG = TAG_PREFIX + "promoters."


@dataclass(frozen=True)
class Promoters:
    """Who may move a channel, as the release of version `release` has noted it. `names`: None for everybody."""

    release: Version
    names: tuple[str, ...] | None

    def to_tag(self) -> str:
        """Return the tag's value."""
        content = {"release": str(self.release), "promoters": self.names}
        return json.dumps(content, ensure_ascii=False, sort_keys=True, allow_nan=False)


@dataclass(frozen=True)
class Noted:
    """What is noted of a release: the cells that it plans and why it is made; both empty where nobody has said."""

    cells: tuple[str, ...] = ()
    reason: str = ""

    def contradiction(self, other: Noted) -> str:
        """Return what another note says differently, as it is noted; empty where it says nothing else."""
        if self.cells and set(self.cells) != set(other.cells):
            return f"its cells are {', '.join(sorted(self.cells))}"
        return f"its reason is {self.reason!r}" if self.reason and other.reason not in ("", self.reason) else ""

    def to_tags(self, version: Version) -> dict[str, str]:
        """Return the tags of a release; none for an empty reason."""
        reason = {f"{REASON_TAG}{version}": self.reason} if self.reason else {}
        return {f"{PLAN_TAG}{version}": " ".join(sorted(self.cells)), **reason}


def noted(tags: Mapping[str, str], version: Version) -> Noted:
    """Return what the experiment's tags note of a release."""
    return Noted(tuple(tags.get(f"{PLAN_TAG}{version}", "").split()), tags.get(f"{REASON_TAG}{version}", ""))


def promoters_of(tags: Mapping[str, str], channel: str) -> Promoters | None:
    """Return who may move a channel; None where no release has noted it. Raises `RegistryError` where it is damaged."""
    name = f"{PROMOTERS_TAG}{channel}"
    if name not in tags:
        return None
    try:
        content = parse_json(tags[name])
        names = content["promoters"]
        if names is not None and not (isinstance(names, list) and all(isinstance(one, str) for one in names)):
            raise ValueError(names)  # noqa: TRY301 - one damaged tag, one message
        return Promoters(Version.parse(content["release"]), None if names is None else tuple(names))
    except (KeyError, TypeError, ValueError, MalformedReferenceError) as error:
        raise RegistryError(
            f"the experiment's tag {name} in MLflow is damaged, so who may move channel {channel} is unknown",
            fix="run phipack release again, which notes the project file's list, after deleting that tag",
        ) from error


def promoter_tags(
    tags: Mapping[str, str], version: Version, promoters: Mapping[str, Sequence[str]] | None
) -> dict[str, str]:
    """Return the tags that must be set so that the lists of a release's project file hold.

    Args:
        tags: the experiment's, as they are.
        version: of the release.
        promoters: the lists, by channel. Everybody may move the other channels. None leaves what is noted.
    """
    if promoters is None:
        return {}
    noted = {name.removeprefix(PROMOTERS_TAG) for name in tags if name.startswith(PROMOTERS_TAG)}
    changed = {}
    for channel in sorted(noted | promoters.keys()):
        before = promoters_of(tags, channel)
        now = Promoters(version, tuple(promoters[channel]) if channel in promoters else None)
        if before is None or (before.release <= version and before != now):
            changed[f"{PROMOTERS_TAG}{channel}"] = now.to_tag()
    return changed
