"""`evidence import`: figures that were measured elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack import completion
from phipack.commands.opening import open_registry
from phipack.options import FILE, State, pass_state
from phipack.tables import table
from targets.formatting import figure

if TYPE_CHECKING:
    from registry.bundle.manifest import Manifest
    from targets.measurement import Measurement


@click.group()
def evidence() -> None:
    """Figures of bundles that were measured elsewhere."""


@evidence.command("import")
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option("--bundle", metavar="DIR|REF", help="The bundle that was run: its folder, or MODEL:VERSION@CELL.")
@click.option("--format", "format_name", metavar="NAME", help="The files' format. [default: found by their content]")
@click.option("--select", metavar="TEXT", help="Only runs whose model, backend or device has this text.")
@click.option("--target", metavar="TARGET", shell_complete=completion.targets, help="The device that it ran on.")
@click.option("--device", metavar="MODEL", help="What the device calls itself, such as iPhone15,4.")
@click.option("--os", "system", metavar="OS", help="Its operating system, such as 'iOS 18.1'.")
@click.option("--soc", metavar="CHIP", help="Its chip, such as 'Apple A16'.")
@click.option("--model", metavar="MODEL", help="The model's name, where the file has another.")
@click.option("--recipe", metavar="RECIPE", help="How the weights are stored, for a run of no bundle.")
@click.option("-o", "--out", type=FILE, metavar="FILE", help="Write the one measurement here, and add it to no bundle.")
@pass_state
def import_(
    state: State,
    files: tuple[Path, ...],
    bundle: str | None,
    format_name: str | None,
    select: str | None,
    target: str | None,
    device: str | None,
    system: str | None,
    soc: str | None,
    model: str | None,
    recipe: str | None,
    out: Path | None,
) -> None:
    """Read figures of a device, and add them to the measurements of a bundle in the store.

    FILE is the output of llama-bench (JSON, JSON lines), of onnxruntime-genai's benchmark (JSON), of ExecuTorch's
    benchmark (JSON) or of XCTest, Qualcomm AI Hub's perf.yaml, or what phipack measure wrote.

    The file of a benchmark names no bundle: that it ran the one of --bundle is your claim. It is refused where the file
    contradicts it, and marked as a claim wherever it is shown; gates accept it only with accept_claims = true. Without
    --bundle, the runs are shown.
    """
    from phipack.api.evidence_import import import_measurements
    from phipack.json_form.imported import ImportedForm
    from registry.files.output_file import check_output_file, write_output_file

    if out is not None:
        check_output_file(out)
    manifest = None if bundle is None else _manifest(state, bundle)
    found = import_measurements(
        files,
        manifest=manifest,
        format=format_name,
        select=select,
        target=target,
        device=device,
        os=system,
        soc=soc,
        model=model,
        recipe=recipe,
    )
    added = 0
    if out is not None:
        if len(found) != 1:
            raise click.UsageError(f"--out takes one run, and there are {len(found)}: choose one with --select")
        write_output_file(out, found[0].to_json().encode())
    elif manifest is not None:
        added = open_registry(state).add_measurements(manifest.digest, found)
    digest = None if manifest is None else manifest.digest
    state.output.result(
        ImportedForm(bundle=digest, added=added, measurements=list(found)).data(),
        f"{measurements_text(found)}\n\n{_outcome(digest, added, out)}",
    )


def measurements_text(measurements: Sequence[Measurement]) -> str:
    """Lay out measurements in a table, one figure a row."""
    rows = [
        (name, figure(name, one.value, one.unit), one.kind, one.on)
        for measurement in measurements
        for name, one in measurement.as_figures().items()
    ]
    return table(("figure", "value", "", "on"), rows)


def _outcome(digest: str | None, added: int, out: Path | None) -> str:
    if out is not None:
        return f"written to {out}"
    return f"{added} new for {digest}" if digest is not None else "added to no bundle: name it with --bundle"


def _manifest(state: State, bundle: str) -> Manifest:
    """Return the manifest of a bundle's folder, or of the one bundle that a reference stands for."""
    from phipack.api.delivery import open_bundle

    if Path(bundle).is_dir():
        return open_bundle(bundle).manifest
    return open_registry(state).manifest(bundle)
