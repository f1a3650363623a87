"""The options that commands share, each defined once.

The common options (`COMMON_NAMES`) are accepted before the command's name and after it; the one after it wins. They
fill `State`, which says what holds where they are not given.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from phipack import completion
from phipack.log_file import open_log
from phipack.output import Mode
from phipack.profile import Profiler
from phipack.state import State, pass_state
from targets.secrets import argument_shown
from targets.strict_json import LARGEST_INTEGER

__all__ = ["State", "pass_state"]  # which every command needs with its options

Command = TypeVar("Command", bound=Callable[..., Any])


class FolderPath(click.Path):
    """A folder that is there, or will be: click itself refuses files alone, not pipes and devices."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if os.path.exists(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112 - pathlib's raise: too long a name
            self.fail(f"{str(path)!r} is no folder.", param, ctx)
        return path


FOLDER = FolderPath(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
COMMON_NAMES = "--project, --tracking-uri, --store, --json, --quiet, --verbose, --log-file"


target_option = click.option(
    "--target",
    metavar="TARGET",
    shell_complete=completion.targets,
    help="A device (phipack targets ls), or the path of a target file of your own.",
)
adapter_option = click.option(
    "--adapter",
    type=FOLDER,
    metavar="DIR",
    help="A peft adapter (LoRA) to merge into the checkpoint while it is read.",
)
calibration_text_option = click.option(
    "--calibration-text",
    type=FILE,
    metavar="FILE",
    help="Text to calibrate on, never the evaluation's. [default: languages, code and chat that come with phipack]",
)
out_option = click.option("-o", "--out", required=True, type=FOLDER, metavar="DIR", help="Folder to create.")
replace_option = click.option("--replace", is_flag=True, help="Replace what is there.")
context_option = click.option(
    "--context", "context_length", type=click.IntRange(min=1), metavar="TOKENS", help="Longest sequence to provide for."
)
kv_cache_option = click.option(
    "--kv-cache",
    metavar="TYPE",
    help="Type of keys and values: such as q8_0 in GGUF, int8 in ONNX. [default: the runtime's own floats]",
)
profile_option = click.option(
    "--profile",
    is_flag=True,
    expose_value=False,
    callback=lambda context, _parameter, asked: _start_profile(context) if asked else None,
    help="Show the time, processor time and peak memory of each phase, of waiting too, and what is not attributed.",
)
only_option = click.option(
    "--only",
    multiple=True,
    metavar="CELL",
    shell_complete=completion.project_cells,
    help="Only this cell (repeatable).",
)
checkpoint_digest_option = click.option(
    "--checkpoint-digest",
    metavar="DIGEST",
    help="Plan with a checkpoint whose files are not here, as phipack plan --json names it; jobs have recorded it.",
)
reason_option = click.option("--reason", default="", metavar="TEXT", help="Why; kept in the history.")


def _keys_folder(context: click.Context, _: click.Parameter, given: Path | None) -> Path:
    state = context.find_object(State)
    assert state is not None
    return given or state.home / "keys"


keys_option = click.option(
    "--keys",
    envvar="PHIPACK_KEYS",
    callback=_keys_folder,
    type=FOLDER,
    metavar="DIR",
    help="Folder of the signing keys, never published. [default: .phipack/keys; environment: PHIPACK_KEYS]",
)


def refuse_unread(why: str, *names: str) -> None:
    """Refuse what was named on the command line and would not be read. Raises `click.UsageError`.

    Args:
        why: it would not be, such as `--refresh publishes nothing new`.
        names: of the command's parameters.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is click.core.ParameterSource.COMMANDLINE:
            written = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.make_metavar(context)
            raise click.UsageError(f"{why}: it takes no {written.strip('[]')}")


def _start_profile(context: click.Context) -> None:
    context.ensure_object(State).output.profiler = Profiler()


def with_common_options(command: click.Command, *, hidden: bool = True) -> click.Command:
    """Add the common options to a command and to all below it. `hidden`: named below its help, not described there."""
    command.params.extend(_hidden_options() if hidden else _common_options(hidden=False))
    if isinstance(command, click.Group):
        for member in command.commands.values():
            with_common_options(member)
    elif hidden:
        command.epilog = f"Common options, here or before the command (phipack --help): {COMMON_NAMES}."
    return command


def _setting(context: click.Context, parameter: click.Parameter, given: Any) -> None:
    """Put an option's value where it belongs. Not given: what the option before the command said stays."""
    state = context.find_object(State)
    if state is None:
        return
    state.output.command = context.command_path.partition(" ")[2]
    name = parameter.name or ""
    if given not in (None, False) and (
        name in _PLACES or not context.resilient_parsing
    ):  # while a shell completes, nothing is opened
        _SETTERS[name](state, given)


def _set_mode(mode: Mode) -> Callable[[State, bool], None]:
    def set_mode(state: State, _: bool) -> None:
        if mode != state.output.mode != "human":
            raise click.UsageError("--json and --quiet exclude one another")
        state.output.mode = mode
        _check_quiet(state)

    return set_mode


def _set_verbose(state: State, _: bool) -> None:
    state.output.verbose = True
    _check_quiet(state)


def _check_quiet(state: State) -> None:
    if state.output.verbose and state.output.mode == "quiet":
        raise click.UsageError("--verbose and --quiet exclude one another")


def _set_log(state: State, path: Path) -> None:
    if state.output.log is not None:
        state.output.log.close()
    state.output.log = open_log(path)
    state.output.log.secret_addresses = state.output.secret_addresses
    state.output.secret_addresses.append(os.environ.get("MLFLOW_TRACKING_URI", ""))
    state.output.log.write(" ".join(["phipack", *(argument_shown(shlex.quote(one)) for one in state.arguments)]))


def _set_tracking_uri(state: State, uri: str) -> None:
    state.named_tracking_uri = uri
    state.output.secret_addresses.append(uri)


def _set(name: str) -> Callable[[State, Any], None]:
    return lambda state, value: setattr(state, name, value)


_PLACES = frozenset({"common_project", "common_tracking_uri", "common_store"})
# By the options' names, which no option of a command has.
_SETTERS: dict[str, Callable[[State, Any], None]] = {
    "common_project": _set("named_project"),
    "common_tracking_uri": _set_tracking_uri,
    "common_store": _set("named_store"),
    "common_json": _set_mode("json"),
    "common_quiet": _set_mode("quiet"),
    "common_verbose": _set_verbose,
    "common_log_file": _set_log,
}


def _common_options(*, hidden: bool) -> list[click.Option]:
    """The common options. They are eager: what other options default to depends on the project file."""
    facts: dict[str, Any] = {"callback": _setting, "expose_value": False, "is_eager": True, "hidden": hidden}
    return [
        click.Option(
            ["--project", "common_project"],
            type=FILE,
            metavar="FILE",
            help="The project file. [default: phipack.toml here or in the nearest folder above, up to a .git]",
            **facts,
        ),
        click.Option(
            ["--tracking-uri", "common_tracking_uri"],
            metavar="URI",
            help="MLflow server. [default: the project file's, else SQLite in .phipack next to it; "
            "environment: MLFLOW_TRACKING_URI]",
            **facts,
        ),
        click.Option(
            ["--store", "common_store"],
            metavar="STORE",
            help="Where the bundles' bytes are: a folder, or s3://BUCKET/PREFIX. "
            "[default: the project file's, else .phipack/store next to it; environment: PHIPACK_STORE]",
            **facts,
        ),
        click.Option(
            ["--json", "common_json"], is_flag=True, help="Print one JSON document, errors included.", **facts
        ),
        click.Option(["--quiet", "common_quiet"], is_flag=True, help="Print errors alone.", **facts),
        click.Option(
            ["--verbose", "common_verbose"],
            is_flag=True,
            help="Print also which registry and store are used, and durations.",
            **facts,
        ),
        click.Option(
            ["--log-file", "common_log_file"],
            type=FILE,
            metavar="FILE",
            help="Append everything to this file, with time stamps and tracebacks.",
            **facts,
        ),
    ]


@functools.cache
def _hidden_options() -> tuple[click.Option, ...]:
    return tuple(_common_options(hidden=True))


def catalog_options(command: Command) -> Command:
    """Add the options that say what is wanted of a published catalog, and for which device."""
    for option in reversed(_CATALOG_OPTIONS):
        command = option(command)
    return command


_CATALOG_OPTIONS = (
    click.option("--of", metavar="REFERENCE", help="MODEL[:VERSION|:CHANNEL|:^RANGE][@CELL] of the catalog."),
    click.option("--device", metavar="IDENTIFIER", help="Choose for this device, such as iPhone15,4 or SM-S921U."),
    click.option("--soc", metavar="NAME", help="The device's SoC, such as 'Apple A16'."),
    click.option("--ram-bytes", type=click.IntRange(1, LARGEST_INTEGER), metavar="BYTES", help="The device's memory."),
    click.option("--os", metavar="'NAME VERSION'", help="The device's OS, such as 'iOS 18.1'."),
    click.option("--format", type=click.Choice(("gguf", "onnx", "coreml")), help="The format that the app can run."),
    click.option(
        "--root", type=FILE, metavar="FILE", help="The catalog's root that is trusted; needed for the first fetch."
    ),
    click.option(
        "--install-id",
        metavar="ID",
        help="The installation's place in a staged rollout. [default: made once, and kept]",
    ),
)
