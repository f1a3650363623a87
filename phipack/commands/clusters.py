"""`workers`: what a dask cluster has, and what of a project nobody there can do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack.cluster_options import cluster_options
from phipack.commands.opening import open_project_registry
from phipack.options import FILE, State, only_option, pass_state
from phipack.tables import table
from targets.formatting import count, size

if TYPE_CHECKING:
    from builders.matrix.cluster.address import ClusterAddress
    from builders.matrix.cluster.survey import Survey


@click.command()
@click.argument("project_file", metavar="[PROJECT]", required=False, type=FILE)
@only_option
@cluster_options
@pass_state
def workers(state: State, project_file: Path | None, only: tuple[str, ...], cluster: ClusterAddress | None) -> None:
    """List the workers of a cluster: what each has, and which cells of the project nobody there can do.

    Nothing is built. Ends with 1 where there is such a cell, or a worker that can't be used.
    """
    from phipack.json_form.clusters import workers_form
    from targets.errors import ClusterError

    if cluster is None:
        raise click.UsageError("--cluster is needed: tls://SCHEDULER:8786, a scheduler's file, or local:N")
    state.named_project = project_file or state.named_project
    found = open_project_registry(state).workers(cluster, state.project, only)
    form = workers_form(found)
    state.output.result(form.data(), "\n\n".join(filter(None, (_head(found), _table(found), _unable(found)))))
    if found.refused:
        raise ClusterError(
            f"{count(len(found.refused), 'worker')} can't be used: {'; '.join(found.refused)}",
            fix="install the same phipack and Python on every worker, and start the workers again",
        )
    if found.unable:
        cells = sorted({cell for job, _ in found.unable for cell in job.cells})
        raise ClusterError(
            f"nobody can do {count(len(found.unable), 'job')} of {', '.join(cells)}",
            fix="start a worker that has what is missing: docs/cluster.md",
        )


def _head(found: Survey) -> str:
    link = f"; dashboard: {found.dashboard}" if found.dashboard else ""
    return f"{found.scheduler}: {count(len(found.machines), 'worker')}{link}"


def _table(found: Survey) -> str:
    rows = [
        (
            one.host,
            one.system,
            one.identity.version,
            ", ".join(one.extras),
            ", ".join(f"{name} {version}" for name, version in sorted(one.packages.items()) if name in _RUNTIMES),
            ", ".join(one.devices),
            one.threads,
            size(one.memory_bytes),
            size(one.disk_bytes),
            one.address,
        )
        for one in found.machines
    ]
    columns = ("host", "system", "phipack", "extras", "runtimes", "phones", "threads", "memory", "disk", "worker")
    return table(columns, rows) if rows else ""


_RUNTIMES = frozenset({"llama-cpp-python", "onnxruntime", "onnxruntime-genai", "coremltools"})


def _unable(found: Survey) -> str:
    return "\n".join(f"{job.name} ({', '.join(job.cells)}): {why}" for job, why in found.unable)
