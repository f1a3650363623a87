"""The commands, one file a room, and the group that holds them. Heavy imports stand inside the commands."""

from __future__ import annotations

import click

from phipack.commands import (
    building,
    calibrating,
    clusters,
    completion,
    delivery,
    devices,
    differences,
    doctor,
    evidence_import,
    inspecting,
    jobs,
    maintenance,
    measuring,
    packing,
    publication,
    registry,
    releasing,
    relocation,
    reporting,
    schema,
    serving,
    signing,
    validation,
)
from phipack.options import with_common_options


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="phipack")
def cli() -> None:
    """Build, prove, register and deliver Phi-3 models for phones.

    A checkpoint becomes bundles (ONNX, GGUF, Core ML) for named targets; validation compares each with the checkpoint;
    a release registers them in MLflow; apps fetch them by version. The options below work before a command and after
    it.

    Exit codes: 0 success, 1 error, 2 wrong usage, 3 a gate failed, 4 a service is unreachable (try again), 130
    interrupted.
    """


COMMANDS: tuple[click.Command, ...] = (
    devices.targets,
    devices.recipes,
    devices.fit,
    building.build,
    calibrating.calibrate,
    building.convert,
    building.export,
    inspecting.inspect,
    validation.validate,
    jobs.plan,
    jobs.matrix,
    measuring.devices,
    measuring.measure,
    evidence_import.evidence,
    releasing.release,
    clusters.workers,
    registry.ls,
    registry.show,
    reporting.report,
    registry.promote,
    registry.retire,
    registry.rollback,
    registry.history,
    differences.diff,
    publication.publish,
    signing.keys,
    maintenance.gc,
    relocation.registry_group,
    serving.serve,
    delivery.fetch,
    packing.split,
    packing.join,
    delivery.generate,
    doctor.doctor,
    schema.schema,
    completion.completion,
)
for _command in COMMANDS:
    cli.add_command(_command)
with_common_options(cli, hidden=False)
