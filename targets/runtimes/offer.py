"""The runtimes that an app ships, and what a bundle needs that the app does not have. Pure.

An app that lists runtimes lists all of them: a format with none of its runtimes in the list is one that the app can't
run. An app that lists none is not restricted. Of a format's runtimes only those that are listed are compared:
onnxruntime-genai, for example, is one way to drive an ONNX bundle, and an app may have another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from targets.errors import TargetError, did_you_mean
from targets.recipes import Format
from targets.runtimes.requirement import FORMAT_OF, RUNTIMES, RuntimeNeed
from targets.runtimes.version import RuntimeVersion


@dataclass(frozen=True)
class Offer:
    """The runtimes of an app, by name. Empty: nothing is known of them."""

    versions: Mapping[str, RuntimeVersion] = field(default_factory=dict)

    @classmethod
    def of(cls, versions: Mapping[str, str]) -> Offer:
        """Read versions by runtime. Raises `TargetError` for an unknown runtime or a malformed version."""
        for name in versions:
            if name not in FORMAT_OF:
                raise TargetError(f"unknown runtime {name!r}", fix=did_you_mean(name, FORMAT_OF))
        return cls({name: RuntimeVersion.parse(version) for name, version in versions.items()})

    @classmethod
    def parse(cls, pairs: Iterable[str]) -> Offer:
        """Read `NAME=VERSION` pairs, such as `onnxruntime=1.20`. Raises `TargetError` as `of` does."""
        versions: dict[str, str] = {}
        for pair in pairs:
            name, equals, version = pair.partition("=")
            if not equals:
                raise TargetError(f"{pair!r} has no version", fix=f"write {name}=VERSION, such as onnxruntime=1.22.0")
            if name in versions:
                raise TargetError(f"runtime {name} is given twice", fix="keep one of the two")
            versions[name] = version
        return cls.of(versions)

    def __bool__(self) -> bool:
        return bool(self.versions)

    def __str__(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in sorted(self.versions.items())) or "not stated"


NO_OFFER = Offer()


@dataclass(frozen=True)
class Shortfall:
    """One reason why an app can't run a bundle, as a clause. `need`: None where it has no runtime of the format."""

    text: str
    need: RuntimeNeed | None = None


def shortfalls(
    bundle_format: Format, needs: Iterable[RuntimeNeed], offer: Offer, os: str | None
) -> tuple[Shortfall, ...]:
    """Return what keeps an app from running a bundle; empty where it can, or states no runtimes.

    `os`: the app's; None where it is not known.
    """
    if not offer:
        return ()
    if not any(name in offer.versions for name in RUNTIMES[bundle_format]):
        return (Shortfall(f"the app has no runtime for {bundle_format}: it has {offer}"),)
    return tuple(
        Shortfall(f"it needs {need}, and the app has {offer.versions[need.runtime]}", need)
        for need in needs
        if need.runtime in offer.versions and not need.allows(offer.versions[need.runtime], os)
    )


def remedy(bundle_format: Format, found: Iterable[Shortfall], os: str | None) -> str:
    """Return what would help an app with these shortfalls, as a clause."""
    asked = [f"{one.need.runtime} {_enough(one.need, os)}" for one in found if one.need is not None]
    if not asked:
        return f"use a bundle of another format, or add {RUNTIMES[bundle_format][0]} to the app"
    return f"ship {' and '.join(asked)} in the app"


def _enough(need: RuntimeNeed, os: str | None) -> str:
    """Return the least version that runs it on this OS, as text."""
    least = need.minimum
    while (gap := next((gap for gap in need.gaps if gap.has(RuntimeVersion(least), os)), None)) is not None:
        if gap.fixed_in is None:
            return "in a version that works (none is known yet)"
        least = gap.fixed_in
    return f"{least} or later"
