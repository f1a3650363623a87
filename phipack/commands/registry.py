"""`ls`, `show`, `promote`, `rollback`, `history`: what is registered, and what moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from phipack import completion
from phipack.options import State, pass_state, reason_option, registry_options
from phipack.output import table

if TYPE_CHECKING:
    from registry.ledger.channel_moves import CellMove, Move, VersionId
    from registry.ledger.versions import CellVersion
    from targets.project import Roles


@click.command()
@click.argument("model", required=False, shell_complete=completion.models)
@registry_options
@pass_state
def ls(state: State, model: str | None, tracking_uri: str | None, store: str | None) -> None:
    """List what is registered, of one model or of all."""
    from registry.ledger.reader import open_reader
    from registry.store.uris import open_store

    versions = open_reader(tracking_uri, open_store(store)).versions(model)
    rows = [
        (v.model, v.release, v.cell, v.recipe, "passed" if v.gates_passed else "FAILED", ", ".join(v.channels) or "-")
        for v in versions
    ]
    columns = ("model", "version", "cell", "recipe", "gates", "channels")
    nothing = f"nothing is registered{f' of {model}' if model else ''} in {state.registry}"
    text = table(columns, rows) if rows else nothing
    state.output.result([_version_data(v) for v in versions], text)


@click.command()
@click.argument("reference", shell_complete=completion.references)
@registry_options
@pass_state
def show(state: State, reference: str, tracking_uri: str | None, store: str | None) -> None:
    """Show the cells that a reference names, with their evidence: MODEL[:VERSION|:CHANNEL|:^RANGE][@CELL]."""
    from phipack.commands.validation import evidence_text
    from registry.ledger.ledger import open_ledger
    from registry.ledger.reader import resolve_in
    from registry.store.uris import open_store
    from targets.references import Reference

    ledger = open_ledger(tracking_uri, open_store(store), on_progress=state.output.on_progress)
    data, texts = [], []
    for version in resolve_in(ledger, Reference.parse(reference)):
        evidence = ledger.evidence(version)
        data.append(_version_data(version) | {"evidence": evidence.model_dump(mode="json", by_alias=True)})
        facts = "\n".join(f"{name:<12}{value}" for name, value in _version_data(version).items())
        texts.append(f"{version.reference}\n{facts}\n\n{evidence_text(evidence)}")
    state.output.result(data, "\n\n\n".join(texts))


@click.command()
@click.argument("reference", shell_complete=completion.references)
@click.option(
    "--to",
    "channel",
    required=True,
    metavar="CHANNEL",
    shell_complete=completion.channels,
    help="Such as candidate, staging, production.",
)
@click.option("--override", is_flag=True, help="In spite of what evidence says against it; needs --reason; kept.")
@reason_option
@registry_options
@pass_state
def promote(
    state: State,
    reference: str,
    channel: str,
    override: bool,
    reason: str,
    tracking_uri: str | None,
    store: str | None,
) -> None:
    """Point a channel at a release: at every cell of MODEL:VERSION, or at one with @CELL. All move, or none does.

    Refused where a cell of the release is missing or its evidence does not pass, and to who is not among the channel's
    promoters: those of the project file, if it is the model's; else those of the channel's last move.
    """
    from registry.ledger.ledger import open_ledger
    from registry.promotion import current_user
    from registry.promotion import promote as promote_release
    from registry.store.uris import open_store
    from targets.references import Reference

    if override and not reason.strip():
        raise click.UsageError("--override needs --reason TEXT: why it goes ahead")
    wanted = Reference.parse(reference)
    roles = _roles(state, wanted.model)
    ledger = open_ledger(tracking_uri, open_store(store), on_progress=state.output.on_progress)
    move = promote_release(
        ledger,
        wanted,
        channel,
        who=current_user(),
        why=reason,
        roles=roles,
        override_reason=reason if override else None,
    )
    _show_move(state, move)


@click.command()
@click.argument("model", shell_complete=completion.models)
@click.option(
    "--channel",
    default="production",
    show_default=True,
    shell_complete=completion.channels,
    help="Whose last promotion to take back.",
)
@reason_option
@registry_options
@pass_state
def rollback(
    state: State,
    model: str,
    channel: str,
    reason: str,
    tracking_uri: str | None,
    store: str | None,
) -> None:
    """Take the last promotion of a channel back: every cell that it moved goes where it stood before."""
    from registry.ledger.ledger import open_ledger
    from registry.promotion import current_user
    from registry.promotion import rollback as roll_back
    from registry.store.uris import open_store

    roles = _roles(state, model)
    ledger = open_ledger(tracking_uri, open_store(store), on_progress=state.output.on_progress)
    _show_move(state, roll_back(ledger, model, channel, who=current_user(), why=reason, roles=roles))


@click.command()
@click.argument("model", shell_complete=completion.models)
@registry_options
@pass_state
def history(state: State, model: str, tracking_uri: str | None, store: str | None) -> None:
    """List every move of a model's channels: who, by which list, when, from, to, evidence, why. Newest first."""
    from registry.ledger.ledger import open_ledger
    from registry.promotion import history as moves_of
    from registry.store.uris import open_store

    moves = moves_of(open_ledger(tracking_uri, open_store(store), on_progress=state.output.on_progress), model)
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
    columns = ("when", "who", "allowed by", "move", "cell", "from", "to", "evidence", "state", "why")
    text = "\n\n".join(
        [
            table(columns, rows) if rows else f"no moves of {model} in {state.registry}",
            *map(_overrode, filter(_overrode, moves)),
        ]
    )
    state.output.result([_move_data(m) for m in moves], text)


def _roles(state: State, model: str) -> Roles | None:
    """Return the lists of the project file, None where that is another model's. Refused where `--project` names it."""
    plan = state.project
    if plan is None or plan.model == model:
        return None if plan is None else plan.roles
    if state.named_project is None:
        return None
    raise click.UsageError(f"--project {state.named_project} is of model {plan.model}, not of {model}")


def _show_move(state: State, move: Move) -> None:
    if not move.id:
        state.output.result(_move_data(move), f"{move.channel} is there already: nothing to move")
        return
    rows = [(cell.cell, _release(cell.before), _release(cell.after)) for cell in move.cells]
    text = f"{move.title}, allowed by {_allowed_by(move)}\n\n{table(('cell', 'from', 'to'), rows)}"
    state.output.result(_move_data(move), "\n\n".join(filter(None, (text, _overrode(move)))))


def _allowed_by(move: Move) -> str:
    return "everybody" if move.promoters is None else f"promoters {', '.join(move.promoters)}"


def _evidence(move: Move, cell: CellMove) -> str:
    """The digest's head; a cell that went ahead in spite of its evidence says so."""
    if any(failure.cell == cell.cell for failure in move.overrode):
        return "OVERRIDDEN"
    return "-" if cell.evidence is None else cell.evidence.removeprefix("sha256:")[:12]


def _overrode(move: Move) -> str:
    if not move.overrode:
        return ""
    problems = [": ".join(filter(None, (failure.cell, failure.problem))) for failure in move.overrode]
    return f"{move.title} by {move.who} went ahead in spite of:\n  " + "\n  ".join(problems)


def _release(version: VersionId | None) -> str:
    return "-" if version is None else version.release


def _version_data(version: CellVersion) -> dict[str, object]:
    return {
        "model": version.model,
        "version": str(version.release),
        "cell": version.cell,
        "target": version.target,
        "recipe": version.recipe,
        "digest": version.digest,
        "checkpoint": version.checkpoint,
        "gates": "passed" if version.gates_passed else "failed",
        "channels": list(version.channels),
        "mlflow": f"{version.registered_model} version {version.number}, run {version.run_id}",
        "created": version.created.isoformat(timespec="seconds"),
    }


def _move_data(move: Move) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(move) | {"when": move.when.isoformat(timespec="seconds"), "title": move.title}
