"""Click options that several commands share, each defined once, and the state that they fill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from phipack.output import Output

Command = TypeVar("Command", bound=Callable[..., Any])

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass
class State:
    """What the options before the command's name decide."""

    output: Output = field(default_factory=Output)


pass_state = click.make_pass_decorator(State)

target_option = click.option(
    "--target", metavar="TARGET", help="A device (phipack targets ls), or the path of a target file of your own."
)
out_option = click.option("-o", "--out", required=True, type=FOLDER, metavar="DIR", help="Folder to make.")
replace_option = click.option("--replace", is_flag=True, help="Put it in the place of what is there.")
context_option = click.option(
    "--context", "context_length", type=click.IntRange(min=1), metavar="TOKENS", help="Longest sequence to provide for."
)
reason_option = click.option("--reason", default="", metavar="TEXT", help="Why; kept in the history.")

keys_option = click.option(
    "--keys",
    envvar="PHIPACK_KEYS",
    default=Path(".phipack/keys"),
    show_default=True,
    type=FOLDER,
    metavar="DIR",
    help="Folder of the signing keys, never published. [environment: PHIPACK_KEYS]",
)


def registry_options(command: Command) -> Command:
    """Say which MLflow server and which store a command works on."""
    command = click.option(
        "--store",
        envvar="PHIPACK_STORE",
        metavar="STORE",
        help="Where the bundles' bytes are: a folder, or s3://BUCKET/PREFIX. "
        "[default: .phipack/store; environment: PHIPACK_STORE]",
    )(command)
    return click.option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        metavar="URI",
        help="MLflow server. [default: SQLite in .phipack; environment: MLFLOW_TRACKING_URI]",
    )(command)


def catalog_options(command: Command) -> Command:
    """Say what is wanted of a published catalog, and who asks."""
    for option in reversed(_CATALOG_OPTIONS):
        command = option(command)
    return command


_CATALOG_OPTIONS = (
    click.option("--of", metavar="REFERENCE", help="MODEL[:VERSION|:CHANNEL|:^RANGE][@CELL] of the catalog."),
    click.option("--device", metavar="IDENTIFIER", help="Choose for this device, such as iPhone15,4 or SM-S921U."),
    click.option("--soc", metavar="NAME", help="The device's SoC, such as 'Apple A16'."),
    click.option("--ram-bytes", type=click.IntRange(min=1), metavar="BYTES", help="The device's memory."),
    click.option("--os", metavar="'NAME VERSION'", help="The device's OS, such as 'iOS 18.1'."),
    click.option(
        "--format", type=click.Choice(("gguf", "onnx", "coreml")), help="What the app's runtime reads, for a choice."
    ),
    click.option(
        "--root", type=FILE, metavar="FILE", help="The catalog's root that is trusted; needed for the first fetch."
    ),
    click.option(
        "--install-id", metavar="ID", help="Whose place in a staged rollout counts. [default: made once, and kept]"
    ),
)
