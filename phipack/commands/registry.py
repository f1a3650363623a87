"""`ls`, `show`, `promote`, `retire`, `rollback`, `history`: what is registered, and what moves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from phipack import completion
from phipack.commands.evidence_import import measurements_text
from phipack.commands.opening import open_project_registry, open_registry
from phipack.commands.validation import evidence_text
from phipack.options import State, pass_state, reason_option
from phipack.tables import table
from targets.errors import did_you_mean
from targets.formatting import recipe_shown
from targets.printable import one_line

if TYPE_CHECKING:
    from phipack.api.registry import Registry
    from phipack.api.results import RegisteredCell
    from registry.ledger.channel_moves import CellMove, Move, VersionId
    from registry.ledger.versions import CellVersion


@click.command()
@click.argument("model", required=False, shell_complete=completion.models)
@pass_state
def ls(state: State, model: str | None) -> None:
    """List what is registered, of one model or of all."""
    from phipack.json_form.registry import versions_form

    registry = open_registry(state)
    versions = registry.versions(model)
    rows = [
        (
            *(v.model, v.release, v.cell, recipe_shown(v.recipe, v.calibration, v.budget, v.kv_cache)),
            "passed" if v.gates_passed else "FAILED",
            ", ".join(v.channels) or "-",
        )
        for v in versions
    ]
    columns = ("model", "version", "cell", "recipe", "gates", "channels")
    nothing = f"nothing is registered{f' of {model}' if model else ''} in {state.registry}"
    text = table(columns, rows) if rows else nothing + _model_meant(registry, model)
    state.output.result(versions_form(versions).data(), text)


@click.command()
@click.argument("reference", shell_complete=completion.references)
@pass_state
def show(state: State, reference: str) -> None:
    """Show the cells of a reference with their evidence: MODEL[:VERSION|:CHANNEL|:^RANGE][@CELL]."""
    from phipack.json_form.registry import shown_form

    cells = open_registry(state).show(reference)
    text = "\n\n\n".join(_shown(one) for one in cells)
    state.output.result(shown_form(cells).data(), text)


@click.command()
@click.argument("reference", shell_complete=completion.references)
@click.option(
    "--to",
    "channel",
    required=True,
    metavar="CHANNEL",
    shell_complete=completion.channels,
    help="Such as candidate, staging or production.",
)
@click.option(
    "--override", is_flag=True, help="Promote in spite of failing or missing evidence; needs --reason, which is kept."
)
@click.option("--new-channel", is_flag=True, help="Make a channel even if its name is nearly that of another one.")
@reason_option
@pass_state
def promote(
    state: State,
    reference: str,
    channel: str,
    override: bool,
    new_channel: bool,
    reason: str,
) -> None:
    """Point a channel at a release: at every cell of MODEL:VERSION, or at one with @CELL. All move, or none.

    Cells of the channel that the release does not have are left alone, and named. Refused where a cell of the release
    is missing or its evidence does not pass, and to users who are not among the channel's promoters: those that the
    last release has noted in the registry, and those of the project file, if it is the model's.

    A channel that is not there is made, and the output says so; one whose name is nearly that of another is refused.
    """
    if override and not reason.strip():
        raise click.UsageError("--override needs --reason TEXT: why the promotion goes ahead")
    registry = open_project_registry(state, re.split("[:@]", reference)[0])
    overrides = reason if override else None
    move = registry.promote(reference, channel, reason=reason, override_reason=overrides, new_channel=new_channel)
    _show_move(state, registry, move)


@click.command()
@click.argument("reference", metavar="MODEL@CELL", shell_complete=completion.references)
@click.option(
    "--from",
    "channel",
    required=True,
    metavar="CHANNEL",
    shell_complete=completion.channels,
    help="Such as candidate, staging or production.",
)
@reason_option
@pass_state
def retire(state: State, reference: str, channel: str, reason: str) -> None:
    """Take a cell out of a channel: of no release, the channel has it any more.

    Its versions stay registered, and what is published stays until the channel is published again. phipack rollback
    brings it back.
    """
    registry = open_project_registry(state, re.split("[:@]", reference)[0])
    _show_move(state, registry, registry.retire(reference, channel, reason=reason))


@click.command()
@click.argument("model", shell_complete=completion.models)
@click.option(
    "--channel",
    default="production",
    show_default=True,
    shell_complete=completion.channels,
    help="Whose last promotion or retirement to take back.",
)
@click.option("--empty", is_flag=True, help="Take back the first promotion, too: the channel then points at nothing.")
@reason_option
@pass_state
def rollback(
    state: State,
    model: str,
    channel: str,
    empty: bool,
    reason: str,
) -> None:
    """Take the last promotion or retirement of a channel back: every cell of it returns to where it was before."""
    registry = open_project_registry(state, model)
    _show_move(state, registry, registry.rollback(model, channel, reason=reason, empty=empty))


@click.command()
@click.argument("model", shell_complete=completion.models)
@pass_state
def history(state: State, model: str) -> None:
    """List every move of a model's channels, newest first: who, by which list of promoters, when, from, to, and why.

    Below: where the report of what was promoted is, with its evidence.
    """
    from phipack.json_form.registry import history_form

    registry = open_registry(state)
    moves = registry.history(model)
    rows = [
        (
            f"{m.when:%Y-%m-%d %H:%M:%S}Z",
            m.who,
            _allowed_by(m),
            m.title,
            cell.cell,
            _release(cell.before),
            _release(cell.after),
            _evidence(m, cell),
            m.state,
            m.why or "-",
        )
        for m in moves
        for cell in m.cells
    ]
    nothing = f"no moves of {model} in {state.registry}"
    columns = ("when", "who", "promoters", "move", "cell", "from", "to", "evidence", "state", "why")
    text = "\n\n".join(
        [
            table(columns, rows) if rows else nothing + _model_meant(registry, model),
            *filter(None, map(_overrode, moves)),
            *_reports(registry, moves),
        ]
    )
    state.output.result(history_form(moves, registry.run_link).data(), text)


def _model_meant(registry: Registry, model: str | None) -> str:
    """Name the model that may be meant, where the one that was named has nothing."""
    models = registry.models() if model else ()
    if model is None or not models or model in models:
        return ""
    return f"; {did_you_mean(model, models)}"


def _shown(cell: RegisteredCell) -> str:
    report = f"phipack report {cell.version.reference} -o report.html; with the evidence: {cell.run}"
    reason = f"\n{'reason':<12}{one_line(cell.reason)}" if cell.reason else ""
    parts = [f"{_facts(cell.version)}{reason}\n{'report':<12}{report}", evidence_text(cell.evidence)]
    if cell.measurements:
        parts.append(f"on devices, in the store:\n\n{measurements_text(cell.measurements)}")
    return "\n\n".join(parts)


def _facts(version: CellVersion) -> str:
    facts = {
        "model": version.model,
        "version": version.release,
        "cell": version.cell,
        "target": version.target,
        "recipe": version.recipe,
        "calibration": version.calibration,
        **({} if version.budget is None else {"budget": version.budget}),
        **({"KV cache": version.kv_cache} if version.kv_cache else {}),
        "digest": version.digest,
        "checkpoint": version.checkpoint,
        "gates": "passed" if version.gates_passed else "FAILED",
        "channels": ", ".join(version.channels) or "-",
        "mlflow": f"{version.registered_model} version {version.number}, run {version.run_id}",
        "store": version.store,
        "created": version.created.isoformat(timespec="seconds"),
    }
    return "\n".join([version.reference, *(f"{name:<12}{value}" for name, value in facts.items())])


def _show_move(state: State, registry: Registry, move: Move) -> None:
    from phipack.json_form.registry import move_form

    data = move_form(move, registry.run_link).data()
    if not move.id:
        text = f"{move.channel} is there already: nothing to move"
        state.output.result(data, "\n\n".join(filter(None, (text, _unmoved(move)))))
        return
    rows = [(cell.cell, _release(cell.before), _release(cell.after)) for cell in move.cells]
    new = f" (new channel of {move.model})" if move.new_channel else ""
    text = f"{move.title}{new}; {_why_allowed(move)}\n\n{table(('cell', 'from', 'to'), rows)}"
    state.output.result(data, "\n\n".join(filter(None, (text, _emptied(move), _unmoved(move), _overrode(move)))))


def _emptied(move: Move) -> str:
    """Name cells that the channel has nothing of any more; a retirement says so itself."""
    cells = ", ".join(cell.cell for cell in move.cells if cell.after is None)
    if not cells or move.kind == "retirement":
        return ""
    return f"{move.channel} has nothing of these cells now, and the next publish takes them from phones: {cells}"


def _unmoved(move: Move) -> str:
    cells = ", ".join(f"{one.cell} (stays at {one.at.release})" for one in move.unmoved)
    return f"left alone, as the release does not have them: {cells}" if cells else ""


def _why_allowed(move: Move) -> str:
    if move.promoters is None:
        return f"no list of promoters is set for {move.channel}"
    return f"allowed by its list of promoters: {', '.join(move.promoters)}"


def _allowed_by(move: Move) -> str:
    return "no list is set" if move.promoters is None else ", ".join(move.promoters)


def _evidence(move: Move, cell: CellMove) -> str:
    """The first digits of its digest; or that it was overridden."""
    if any(failure.cell == cell.cell for failure in move.overrode):
        return "OVERRIDDEN"
    return "-" if cell.evidence is None else cell.evidence.removeprefix("sha256:")[:12]


def _overrode(move: Move) -> str:
    if not move.overrode:
        return ""
    problems = [": ".join(filter(None, (failure.cell, failure.problem))) for failure in move.overrode]
    return f"{move.title} by {move.who} went ahead in spite of:\n  " + "\n  ".join(problems)


def _reports(registry: Registry, moves: Sequence[Move]) -> list[str]:
    """A table of the runs with the reports of what was promoted, each once; nothing where none is known."""
    runs = {
        part.run_id: f"{move.model}:{part.after.release}@{part.cell}"
        for move in moves
        for part in move.cells
        if part.run_id and part.after is not None
    }
    rows = [(reference, registry.run_link(run_id)) for run_id, reference in runs.items()]
    return [table(("promoted", "its report, with the evidence"), rows)] if rows else []


def _release(version: VersionId | None) -> str:
    return "-" if version is None else version.release
