"""The commands, one file a room, and the group that holds them. Heavy imports stand inside the commands."""

from __future__ import annotations

import click

from phipack.commands import (
    building,
    delivery,
    devices,
    differences,
    maintenance,
    packing,
    publication,
    registry,
    releasing,
    serving,
    signing,
    validation,
)
from phipack.options import State, pass_state


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="phipack")
@click.option("--json", "as_json", is_flag=True, help="Print results as one JSON document.")
@click.option("--quiet", is_flag=True, help="Print errors alone.")
@pass_state
def cli(state: State, as_json: bool, quiet: bool) -> None:
    """Build, prove, register and deliver Phi-3 models for phones.

    A checkpoint becomes bundles (ONNX, GGUF, Core ML) for named targets; validation holds each against the checkpoint;
    a release registers them in MLflow; apps fetch them by version.
    """
    if as_json and quiet:
        raise click.UsageError("--json and --quiet exclude one another")
    state.output.mode = "json" if as_json else "quiet" if quiet else "human"


COMMANDS: tuple[click.Command, ...] = (
    devices.targets,
    devices.recipes,
    devices.fit,
    building.build,
    building.convert,
    building.export,
    building.inspect,
    validation.validate,
    releasing.release,
    registry.ls,
    registry.show,
    registry.promote,
    registry.rollback,
    registry.history,
    differences.diff,
    publication.publish,
    signing.keys,
    maintenance.gc,
    serving.serve,
    delivery.fetch,
    packing.split,
    packing.join,
    delivery.generate,
)
for _command in COMMANDS:
    cli.add_command(_command)
