"""`devices ls` and `measure`: bundles on real devices."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack import completion
from phipack.commands.opening import open_registry
from phipack.options import FILE, FOLDER, State, adapter_option, pass_state, refuse_unread
from phipack.tables import table
from targets.formatting import figure, share, size

if TYPE_CHECKING:
    from builders.devices.provider import FoundDevice
    from builders.devices.providers import Listing
    from targets.measurement import Measurement


@click.group()
def devices() -> None:
    """Phones that bundles can be measured on."""


@devices.command("ls")
@pass_state
def devices_ls(state: State) -> None:
    """List the phones that can be reached, with those that are connected and can't be used."""
    from phipack.api.measuring import list_devices
    from phipack.json_form.devices import devices_form

    listings = list_devices()
    state.output.result(devices_form(listings).data(), _listings_text(listings))


@click.command()
@click.argument("bundle", metavar="BUNDLE-OR-REFERENCE", shell_complete=completion.references_or_paths)
@click.option(
    "--device", required=True, metavar="ADDRESS", help="Its address (phipack devices ls), or adb: for the one."
)
@click.option(
    "--runtime",
    type=click.Path(path_type=Path, exists=True),
    metavar="DIR",
    help="Folder of the runtime's programs, built for the device: llama-bench for GGUF, model_benchmark for ONNX.",
)
@click.option("--against", "checkpoint", type=FOLDER, help="Compare the answers with this checkpoint's, on the device.")
@adapter_option
@click.option("--text", type=FILE, help="Held-out text for that. [default: one that comes with phipack]")
@click.option("--repeat", "repeats", type=click.IntRange(1, 100), default=5, show_default=True, help="Runs.")
@click.option(
    "--prompt-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Length of the prompt."
)
@click.option("--decode-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Tokens to generate.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of llama-bench. [default: its own choice]")
@click.option(
    "--cool",
    "cool_celsius",
    type=click.FloatRange(0, 60),
    default=35.0,
    show_default=True,
    metavar="CELSIUS",
    help="A run starts at this temperature or below.",
)
@click.option(
    "--cool-limit", type=click.IntRange(min=0), default=600, show_default=True, help="Seconds to wait for it."
)
@click.option("--run-limit", type=click.IntRange(min=1), default=900, show_default=True, help="Seconds of one run.")
@click.option("--keep", is_flag=True, help="Leave the bundle on the device for the next measurement.")
@click.option("-o", "--out", type=FILE, metavar="FILE", help="Write the measurement here, as JSON.")
@pass_state
def measure(
    state: State,
    bundle: str,
    device: str,
    runtime: Path | None,
    checkpoint: Path | None,
    adapter: Path | None,
    text: Path | None,
    repeats: int,
    prompt_tokens: int,
    decode_tokens: int,
    threads: int | None,
    cool_celsius: float,
    cool_limit: int,
    run_limit: int,
    keep: bool,
    out: Path | None,
) -> None:
    """Run a bundle on a phone with the runtime's own benchmark, and show what it did.

    Files that are missing on the phone are pushed, and verified there. Between runs the phone cools down. Figures are
    medians of the runs; a speed whose runs differ by more than 15 % is not measured. Afterwards nothing stays on the
    phone, unless --keep asks for it. docs/devices.md says how to get the runtime's programs.
    """
    from builders.devices.provider import DeviceSettings
    from phipack.api.building import open_checkpoint
    from phipack.api.measuring import measure as run
    from registry.files.output_file import check_output_file, write_output_file

    if checkpoint is None:
        refuse_unread("without --against nothing is compared", "adapter", "text")
    if out is not None:
        check_output_file(out)
    settings = DeviceSettings(
        prompt_tokens=prompt_tokens,
        decode_tokens=decode_tokens,
        repeats=repeats,
        threads=threads,
        cool_celsius=cool_celsius,
        cooling_seconds=cool_limit,
        run_seconds=run_limit,
    )
    with _bundle_folder(state, bundle) as (folder, model):
        found = run(
            folder,
            device,
            runtime=runtime,
            checkpoint=None if checkpoint is None else open_checkpoint(checkpoint, adapter=adapter),
            text=text,
            settings=settings,
            model=model,
            keep=keep,
            cache=state.home / "reference",
            on_progress=state.output.on_progress,
        )
    if out is not None:
        write_output_file(out, found.to_json().encode())
    state.output.result(json.loads(found.to_json()), measurement_text(found))


@contextmanager
def _bundle_folder(state: State, bundle: str) -> Iterator[tuple[Path, str | None]]:
    """Yield the folder of a bundle and its model's name; of a reference, the bundle is fetched for as long."""
    from registry.fetch import is_path
    from registry.files.temporary import temporary_folder
    from targets.references import Reference

    if is_path(bundle):
        yield Path(bundle), None
        return
    model = Reference.parse(bundle).model
    with temporary_folder("phipack-measure") as place:
        open_registry(state).fetch(bundle, place / "bundle")
        yield place / "bundle", model


def measurement_text(found: Measurement) -> str:
    """Lay out figures, what was not measured and why, and what they apply to."""
    rows = [
        (name, figure(name, one.value, one.unit), one.statistic, "-" if one.spread is None else share(one.spread))
        for name, one in sorted(found.figures.items())
    ]
    parts = [f"measured on {found.on}" + (", slowed down for heat" if found.throttled else "")]
    parts.append(table(("figure", "value", "", "spread"), rows))
    if found.not_measured:
        parts.append(table(("not measured", "why"), sorted(found.not_measured.items())))
    return "\n\n".join(parts)


def _listings_text(listings: Sequence[Listing]) -> str:
    rows = [_row(device) for listing in listings for device in listing.devices]
    columns = ("device", "model", "target", "SoC", "OS", "ABI", "RAM", "free", "battery", "temperature", "state")
    parts = [table(columns, rows)] if rows else ["no device is connected"]
    for listing in listings:
        problems = [(listing.problem, listing.fix), *((one.problem, one.fix) for one in listing.devices)]
        parts += [f"{problem}\n  fix: {fix}" for problem, fix in problems if problem is not None]
    return "\n\n".join(parts)


def _row(device: FoundDevice) -> tuple[str | None, ...]:
    entry, celsius = device.entry, device.temperature_celsius
    if entry is None:
        return (device.address, *[None] * 9, device.state)
    return (
        device.address,
        entry.model,
        entry.target,
        entry.soc,
        " ".join(filter(None, (entry.os, entry.os_version))),
        entry.abi,
        None if entry.ram_bytes is None else size(entry.ram_bytes),
        None if device.free_bytes is None else size(device.free_bytes),
        None if device.battery_level is None else f"{device.battery_level:.0%}",
        None if celsius is None else f"{celsius:.1f} °C",
        device.state,
    )
