"""The options that name a dask cluster, which `release` and `workers` share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from phipack.options import FILE

if TYPE_CHECKING:
    from builders.matrix.cluster.address import ClusterAddress

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--cluster",
        metavar="CLUSTER",
        help="A dask cluster: tls://SCHEDULER:8786, a scheduler's file, or local:N for N workers on this machine.",
    ),
    click.option(
        "--cluster-plaintext",
        is_flag=True,
        help="Use a scheduler on another machine without TLS: whoever reaches it can run code on the workers.",
    ),
    click.option("--cluster-ca", type=FILE, metavar="FILE", help="The CA that signs the cluster's certificates."),
    click.option("--cluster-cert", type=FILE, metavar="FILE", help="The certificate of this client."),
    click.option("--cluster-key", type=FILE, metavar="FILE", help="Its key."),
)


def cluster_options(command: Command) -> Command:
    """Add the options to a command, which gets them as one `cluster`: a `ClusterAddress`, or None."""

    @functools.wraps(command)
    def with_cluster(*arguments: Any, cluster: str | None, **options: Any) -> Any:
        given = {name: options.pop(f"cluster_{name}") for name in ("plaintext", "ca", "cert", "key")}
        if cluster is None and any(given.values()):
            raise click.UsageError("--cluster-plaintext, --cluster-ca, --cluster-cert and --cluster-key need --cluster")
        return command(*arguments, cluster=None if cluster is None else _address(cluster, given), **options)

    for option in reversed(_OPTIONS):
        with_cluster = option(with_cluster)
    return with_cluster  # type: ignore[return-value]


def _address(cluster: str, given: dict[str, Any]) -> ClusterAddress:
    from builders.matrix.cluster.address import Credentials, parse_cluster

    files: dict[str, Path | None] = {"ca": given["ca"], "certificate": given["cert"], "key": given["key"]}
    return parse_cluster(cluster, plaintext=given["plaintext"], credentials=Credentials(**files))
