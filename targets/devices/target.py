"""`Target`: a device class with its limits and gates. Every figure has its source and says whether it is confirmed."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationInfo, field_validator

from targets.demands import GateTable
from targets.errors import TargetError, did_you_mean
from targets.gates import Gate
from targets.recipes import Format
from targets.runtimes import Offer
from targets.runtimes.stated import RuntimeTable
from targets.toml_file import RefusedValueError, parse_toml, read_toml

_WHOLE_FROM = 1000  # bytes and bytes per second are shown to the last digit
_Text = Annotated[str, Field(min_length=1)]


class Quantity(BaseModel):
    """A figure with its source. `confirmed` is False if it was inferred or comes from general knowledge."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    value: Annotated[float, Field(gt=0, description="The figure, in bytes, bytes per second, or a share of 1.")]
    source: Annotated[str, Field(min_length=3, description="Where it comes from: a page, a measurement.")]
    confirmed: bool = Field(description="False where it was inferred, or comes from general knowledge.")

    def __str__(self) -> str:
        figure = f"{self.value:,.0f}" if self.value >= _WHOLE_FROM else f"{self.value:g}"
        return f"{figure}{'' if self.confirmed else ' (unconfirmed)'}; {self.source}"


class Target(BaseModel):
    """A device class: what it offers, and what it demands of a bundle."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="The target's name, in lower case.")]
    title: _Text = Field(description="The device's name for people.")
    soc: _Text = Field(description="The system on a chip, such as Apple A16.")
    os: _Text = Field(description="The operating system: iOS or Android.")
    minimum_os: _Text = Field(description="The earliest version of it that bundles run on.")
    identifiers: Annotated[tuple[_Text, ...], Strict(False)] = Field(
        default=(), description="What the devices call themselves, such as iPhone15,4 or SM-S921U."
    )
    ram: Quantity = Field(description="Memory, in bytes.")
    app_memory: Quantity = Field(description="Memory that an app may use before it is ended, in bytes.")
    memory_bandwidth: Quantity = Field(description="Bytes per second between memory and the SoC.")
    store_limit: Quantity | None = Field(
        default=None, description="Bytes of the largest piece that the maker's app store delivers."
    )
    decode_efficiency: Annotated[dict[Format, Quantity], Field(min_length=1)] = Field(
        description="For each format with a runtime on the device: the share of the bandwidth that decoding reaches."
    )
    runtimes: RuntimeTable = Field(
        default_factory=dict,
        description='Every runtime that its apps ship, such as onnxruntime = "1.22.0". By default none is stated.',
    )
    gates: Annotated[GateTable, Field(validate_default=True)] = Field(
        default_factory=dict,
        description="Bounds on evidence that every bundle for it must pass. Memory within app_memory is always one.",
    )

    @field_validator("decode_efficiency")
    @classmethod
    def _shares(cls, efficiency: dict[Format, Quantity]) -> dict[Format, Quantity]:
        for name, share in efficiency.items():
            if share.value > 1:
                raise RefusedValueError(
                    f"the efficiency is a share of the bandwidth, at most 1, not {share.value:g}",
                    at=(name, "value"),
                    fix="write a number up to 1, such as 0.5 for half of the bandwidth",
                )
        return efficiency

    @field_validator("app_memory")
    @classmethod
    def _within_ram(cls, app_memory: Quantity, info: ValidationInfo) -> Quantity:
        ram = info.data.get("ram")
        if ram is not None and app_memory.value > ram.value:
            raise RefusedValueError(
                f"{app_memory.value:,.0f} bytes are more than the device's RAM",
                at=("value",),
                fix=f"write at most {ram.value:,.0f}, the value of ram",
            )
        return app_memory

    @field_validator("gates")
    @classmethod
    def _memory_bound(cls, gates: dict[str, Gate], info: ValidationInfo) -> dict[str, Gate]:
        budget = info.data.get("app_memory")
        return gates if budget is None else {"predicted_memory_bytes": Gate(at_most=budget.value)} | gates

    @property
    def formats(self) -> tuple[Format, ...]:
        """Formats that have a runtime on the device."""
        return tuple(self.decode_efficiency)

    @property
    def offer(self) -> Offer:
        """The runtimes that its apps ship."""
        return Offer.of(self.runtimes)

    @property
    def app_memory_bytes(self) -> int:
        """The largest memory that an app may use, in bytes."""
        return int(self.app_memory.value)

    def describe(self) -> str:
        """Return all facts as text, with their sources."""
        facts: list[tuple[str, object]] = [
            ("target", f"{self.name}: {self.title}"),
            ("SoC", self.soc),
            ("OS", f"{self.os} {self.minimum_os} or later"),
            ("identifiers", ", ".join(self.identifiers) or "-"),
            ("RAM, bytes", self.ram),
            ("for an app, bytes", self.app_memory),
            ("bandwidth, bytes/s", self.memory_bandwidth),
            ("a store's piece, bytes", self.store_limit or "-"),
            *((f"efficiency, {name}", share) for name, share in self.decode_efficiency.items()),
            *(("runtime", f"{name} {version}") for name, version in self.runtimes.items()),
            *(("gate", f"{figure} {gate}") for figure, gate in self.gates.items()),
        ]
        return "\n".join(f"{name:<24}{value}" for name, value in facts)


@cache
def load_targets() -> dict[str, Target]:
    """Read all targets that come with phipack, by name. Raises `TargetError` if a file is invalid."""
    targets = {}
    for entry in sorted(resources.files("targets.devices").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            target = parse_toml(entry.read_text("utf-8"), Target, TargetError, name=entry.name)
            if entry.name != f"{target.name}.toml":
                raise TargetError(
                    f"{entry.name}: name is {target.name!r}, which is not the file's name",
                    fix=f"rename the file to {target.name}.toml, or correct name",
                )
            targets[target.name] = target
    return targets


def target_with(identifier: str) -> Target | None:
    """Return the target that lists what a device calls itself, such as `iPhone15,4`; None where none of ours does."""
    return next((target for target in load_targets().values() if identifier in target.identifiers), None)


def target_named(name: str) -> Target:
    """Return a target by its name, or by the path of its file (with a slash or `.toml`). Raises `TargetError`."""
    if name.endswith(".toml") or "/" in name:
        return read_toml(Path(name), Target, TargetError)
    known = load_targets()
    if name not in known:
        raise TargetError(f"unknown target {name!r}", fix=did_you_mean(name, known))
    return known[name]
