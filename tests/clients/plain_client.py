"""A sample client of docs/delivery.md, section 4: which bundle; and all of it together, `install`.

Sections 1 to 3 are `plain_trust.py`, 5 and 6 `plain_bundle.py`. Written from that page alone, to be ported to Swift or
Kotlin. What the app asks for is a channel or an exact version: no ranges.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.clients.plain_bundle import fetch_bundle
from tests.clients.plain_trust import Json, Trust, need


@dataclass(frozen=True)
class Device:
    """What the phone knows of itself; `memory` in bytes, as the OS reports it."""

    identifier: str
    soc: str
    os: str
    os_version: str
    memory: int


@dataclass(frozen=True)
class Wish:
    """What the app asks for: an exact version, or what the channel has; `formats`: those that it runs.

    `runtimes`: every runtime that it ships, and its version; empty: it takes the newest release unseen.
    """

    model: str
    channel: str = "production"
    version: str | None = None
    formats: tuple[str, ...] = ("gguf", "onnx", "coreml")
    runtimes: Mapping[str, str] = field(default_factory=dict)


def place_of(model: str, release: str, install_id: str) -> int:
    """Return the installation's place in a release's rollout, 0 to 9,999."""
    digest = hashlib.sha256(f"{model}\n{release}\n{install_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") * 10_000 >> 64


@dataclass(frozen=True)
class Cell:
    """A cell of the release that it came to; `reached`: that is out for this installation.

    `runs`: the app has what the bundle needs; `why_not`: what kept it from running a newer release.
    """

    name: str
    release: str
    entry: Json
    target: Json
    reached: bool
    runs: bool = True
    why_not: str = ""


RUNTIMES = {"gguf": ("llama.cpp",), "onnx": ("onnxruntime", "onnxruntime-genai"), "coreml": ("coreml",)}


def problem_of(wish: Wish, os: str, entry: Json) -> str:
    """Return why the app can't run a cell's bundle; empty where it can, or where nothing is known."""
    if not wish.runtimes or entry.get("requires") is None:
        return ""
    if not any(name in wish.runtimes for name in RUNTIMES[entry["format"]]):
        return f"no runtime for {entry['format']}"
    for asked in entry["requires"]:
        name = asked["runtime"]
        if name not in wish.runtimes:
            continue
        version = numbers(wish.runtimes[name])
        if version < numbers(asked["minimum"]):
            return f"{name} {asked['minimum']} is needed"
        if any(fails(version, os, gap) for gap in asked["gaps"]):
            return f"{name} {wish.runtimes[name]} fails on {os}"
    return ""


def fails(version: list[int], os: str, gap: Json) -> bool:
    """Say whether a version is one of those that fail on this OS, although they are late enough."""
    here = gap["os"] is None or gap["os"].casefold() == os.casefold()
    return here and numbers(gap["first"]) <= version and (gap["fixed_in"] is None or version < numbers(gap["fixed_in"]))


def cells_of(trust: Trust, targets: Json, wish: Wish, install_id: str, os: str) -> list[Cell]:
    """Return every cell, at the newest release that the installation may have there and the app can run."""

    @cache
    def release(version: str) -> Json:
        return trust.document(targets, f"{wish.model}/releases/{version}.json", "phipack.release/1")

    if wish.version:  # as a channel that has it for everybody
        everybody: list[Json] = [{"release": wish.version, "basis_points": 10_000}]
        channel = dict.fromkeys(release(wish.version)["cells"], everybody)
        earlier: Json = {}
    else:
        path = f"{wish.model}/channels/{wish.channel}.json"
        document = trust.document(targets, path, "phipack.channel/1")
        channel, earlier = document["cells"], document.get("earlier", {})
    found = []
    for name, stages in channel.items():
        reached = [one for one in stages if place_of(wish.model, one["release"], install_id) < one["basis_points"]]
        first = (reached or stages[-1:])[0]
        below = [one["release"] for one in stages[stages.index(first) + 1 :] if one["basis_points"] == 10_000]
        why_not = ""
        for version in [first["release"], *below, *earlier.get(name, [])]:
            document = release(version)
            entry = document["cells"][name]
            problem = problem_of(wish, os, entry)
            why_not = why_not or (problem and f"{version}: {problem}")
            target = document["devices"][entry["target"]]
            found.append(Cell(name, version, entry, target, bool(reached), not problem, why_not))
            if not problem:
                break
    return found


def numbers(version: str) -> list[int]:
    """Return an OS version's numbers; `18` and `18.0` are the same."""
    found = [int(part) for part in re.findall(r"\d+", version)]
    while found and not found[-1]:
        found.pop()
    return found


def runs(device: Device, target: Json) -> bool:
    """Say whether the device's OS is the target's, and new enough."""
    same = device.os.casefold() == target["os"].casefold()
    return same and numbers(device.os_version) >= numbers(target["minimum_os"])


def choose(device: Device, wish: Wish, cells: list[Cell]) -> Cell:
    """Return the device's cell: by its identifier, else its SoC, else its memory."""
    run = [one for one in cells if one.runs]
    need(run or not cells, f"no release runs on the app's runtimes: {'; '.join(one.why_not for one in cells)}")
    able = [one for one in run if one.entry["format"] in wish.formats and runs(device, one.target)]
    able.sort(key=lambda one: (one.entry["target"], one.name))
    fitting = [one for one in able if device.memory >= 0.85 * one.target["ram_bytes"]]
    fitting.sort(key=lambda one: -one.target["ram_bytes"])  # stable: ties stay in the names' order
    steps = (
        [one for one in able if device.identifier in one.target["identifiers"]],
        [one for one in fitting if one.target["soc"].casefold() == device.soc.casefold()],
        fitting,
    )
    target = next((step[0].entry["target"] for step in steps if step), None)
    same = [one for one in able if one.entry["target"] == target]
    need(same, f"nothing is published for {device}")
    own = [one for one in same if one.name == target]
    need(own or len(same) == 1, f"target {target} has several cells: name one")
    chosen = (own or same)[0]
    need(chosen.reached, f"{chosen.name}: {chosen.release} is not out for this installation yet")
    return chosen


def install(trust: Trust, wish: Wish, device: Device, install_id: str, home: Path) -> tuple[Path, str]:
    """Bring the device what it is to have; return the bundle's folder and its release."""
    targets = trust.refresh()
    cell = choose(device, wish, cells_of(trust, targets, wish, install_id, device.os))
    return fetch_bundle(trust.base, cell.entry, home), cell.release
