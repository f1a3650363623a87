"""`calibrate`: what calibrated builds need, measured beforehand."""

from __future__ import annotations

from pathlib import Path

import click

from phipack.options import FILE, FOLDER, State, adapter_option, calibration_text_option, pass_state, profile_option
from targets.calibration import Calibration
from targets.formatting import duration


@click.command()
@click.argument("checkpoint", type=FOLDER)
@click.option(
    "--level",
    type=click.Choice(("light", "full")),
    default="light",
    show_default=True,
    metavar="LEVEL",
    help="light: which inputs of each matrix are large; full: how all of them go together.",
)
@calibration_text_option
@adapter_option
@click.option(
    "--imatrix",
    type=FILE,
    metavar="FILE",
    help="Write the importance matrix here, as GGUF, for llama.cpp's llama-quantize.",
)
@profile_option
@pass_state
def calibrate(
    state: State,
    checkpoint: Path,
    level: Calibration,
    calibration_text: Path | None,
    adapter: Path | None,
    imatrix: Path | None,
) -> None:
    """Measure what calibrated builds of a checkpoint need, and keep it in .phipack/cache.

    Builds and releases do this themselves where it is missing, and share it. An interrupted run goes on where it
    stopped.
    """
    from phipack.api.building import open_checkpoint
    from phipack.api.calibrating import calibrate as measure
    from phipack.json_form.making import calibration_form

    report = measure(
        open_checkpoint(checkpoint, adapter=adapter),
        level=level,
        text=calibration_text,
        imatrix=imatrix,
        home=state.home,
        on_progress=state.output.on_progress,
    )
    lines = [
        f"{checkpoint}: {report.level}, {report.tokens:,} tokens of {report.text}, {duration(report.seconds)}",
        report.text_digest,
        f"kept in {report.folder}",
    ]
    lines += [] if report.imatrix is None else [f"importance matrix: {report.imatrix}"]
    state.output.result(calibration_form(report).data(), "\n".join(lines))
