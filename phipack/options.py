"""Click options that several commands share, each defined once, and the state that they fill."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from phipack.output import Output
from targets.errors import ProjectError

Command = TypeVar("Command", bound=Callable[..., Any])

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
PROJECT = Path("phipack.toml")


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


def store_option(command: Command) -> Command:
    """Say which store a command works on; else the project file says it."""
    return click.option(
        "--store",
        envvar="PHIPACK_STORE",
        callback=_from_project("store"),
        metavar="STORE",
        help="Where the bundles' bytes are: a folder, or s3://BUCKET/PREFIX. "
        "[default: phipack.toml's, else .phipack/store; environment: PHIPACK_STORE]",
    )(command)


def registry_options(command: Command) -> Command:
    """Say which MLflow server and which store a command works on; else the project file says it."""
    command = store_option(command)
    return click.option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        callback=_from_project("tracking_uri"),
        metavar="URI",
        help="MLflow server. [default: phipack.toml's, else SQLite in .phipack; environment: MLFLOW_TRACKING_URI]",
    )(command)


def _from_project(key: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Take what is not given from `[registry]` of the project file: the command's own (eager), or the one here."""

    def found(context: click.Context, _: click.Parameter, given: str | None) -> str | None:
        if given is not None:
            return given
        try:
            return _registry_setting(context.params.get("project") or PROJECT, key)
        except ProjectError:
            if "project" in context.params:
                return None  # the command reads that file itself, and says where it is wrong
            raise

    return found


def _registry_setting(project: Path, key: str) -> str | None:
    """Read one setting; what else is in the file, and whether it is right, is `targets.project`'s."""
    try:
        table = tomllib.loads(project.read_text("utf-8")).get("registry", {})
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ProjectError(f"{project} can't be read: {error}", fix="mend it, or run the command elsewhere") from error
    value = table.get(key) if isinstance(table, dict) else None
    if not isinstance(value, str):
        return None
    return value if key != "store" or "://" in value else str(project.parent / value)


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
