"""`Target`: what a device class offers and demands. Every figure has its source; what nobody published is marked so."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from targets.errors import TargetError, did_you_mean
from targets.evidence import FIGURES
from targets.gates import Gate
from targets.recipes import Format
from targets.toml_file import parse_toml, read_toml


class Quantity(BaseModel):
    """A figure with its source. `confirmed` is False where it was inferred or comes from general knowledge."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    value: Annotated[float, Field(gt=0)]
    source: Annotated[str, Field(min_length=3)]
    confirmed: bool

    def __str__(self) -> str:
        return f"{self.value:g}{'' if self.confirmed else ' (unconfirmed)'}; {self.source}"


class Target(BaseModel):
    """A device class.

    `ram`, `app_memory`: bytes; an app is ended above the latter. `memory_bandwidth`: bytes a second.
    `decode_efficiency`: by format, the share of the bandwidth that decoding reaches. `identifiers`: what the device
    calls itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    title: str
    soc: str
    os: str
    minimum_os: str
    identifiers: tuple[str, ...] = ()
    ram: Quantity
    app_memory: Quantity
    memory_bandwidth: Quantity
    decode_efficiency: Annotated[dict[Format, Quantity], Field(min_length=1)]
    gates: dict[str, Gate] = Field(default_factory=dict)

    @field_validator("gates")
    @classmethod
    def _known_figures(cls, gates: dict[str, Gate]) -> dict[str, Gate]:
        for figure in gates:
            if figure not in FIGURES:
                raise ValueError(f"no figure {figure!r}: {did_you_mean(figure, FIGURES)}")
        return gates

    @property
    def formats(self) -> tuple[Format, ...]:
        """Formats that have a runtime on it."""
        return tuple(self.decode_efficiency)

    @property
    def app_memory_bytes(self) -> int:
        """Most memory that an app may use, in bytes."""
        return int(self.app_memory.value)

    def describe(self) -> str:
        """All facts for a person, with their sources."""
        facts: list[tuple[str, object]] = [
            ("target", f"{self.name}: {self.title}"),
            ("SoC", self.soc),
            ("OS", f"{self.os} {self.minimum_os} or later"),
            ("identifiers", ", ".join(self.identifiers) or "-"),
            ("RAM, bytes", self.ram),
            ("for an app, bytes", self.app_memory),
            ("bandwidth, bytes/s", self.memory_bandwidth),
            *((f"efficiency, {name}", share) for name, share in self.decode_efficiency.items()),
            *(("gate", f"{figure} {gate}") for figure, gate in self.gates.items()),
        ]
        return "\n".join(f"{name:<20}{value}" for name, value in facts)


@cache
def load_targets() -> dict[str, Target]:
    """Read all targets that come with phipack, by name. Raises `TargetError` where a file is wrong."""
    targets = {}
    for entry in sorted(resources.files("targets.devices").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            target = parse_toml(entry.read_text("utf-8"), Target, TargetError, name=entry.name)
            if entry.name != f"{target.name}.toml":
                raise TargetError(f"{entry.name}: name is {target.name!r}, which is not the file's")
            targets[target.name] = target
    return targets


def target_named(name: str) -> Target:
    """Give a target by its name, or by the path of a file (with a slash or `.toml`). Raises `TargetError`."""
    if name.endswith(".toml") or "/" in name:
        return read_toml(Path(name), Target, TargetError)
    known = load_targets()
    if name not in known:
        raise TargetError(f"unknown target {name!r}", fix=did_you_mean(name, known))
    return known[name]
