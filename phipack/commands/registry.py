"""`ls`, `show`, `promote`, `rollback`, `history`: what is registered, and what moves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack.options import State, pass_state, reason_option, registry_options
from phipack.output import table

if TYPE_CHECKING:
    from registry.moves import Move, Stand
    from registry.versions import CellVersion


@click.command()
@click.argument("model", required=False)
@registry_options
@pass_state
def ls(state: State, model: str | None, tracking_uri: str | None, store: Path | None) -> None:
    """List what is registered, of one model or of all."""
    from registry.reading import open_reader
    from registry.store import open_store

    versions = open_reader(tracking_uri, open_store(store)).versions(model)
    rows = [
        (v.model, v.release, v.cell, v.recipe, "passed" if v.gates_passed else "FAILED", ", ".join(v.channels) or "-")
        for v in versions
    ]
    text = table(("model", "version", "cell", "recipe", "gates", "channels"), rows) if rows else "nothing is registered"
    state.output.result([_version_data(v) for v in versions], text)


@click.command()
@click.argument("reference")
@registry_options
@pass_state
def show(state: State, reference: str, tracking_uri: str | None, store: Path | None) -> None:
    """Show the cells that a reference names, with their evidence: MODEL[:VERSION|:CHANNEL|:^RANGE][@CELL]."""
    from phipack.commands.validation import evidence_text
    from registry.ledger import open_ledger
    from registry.reading import resolve_in
    from registry.store import open_store
    from targets.references import Reference

    ledger = open_ledger(tracking_uri, open_store(store))
    data, texts = [], []
    for version in resolve_in(ledger, Reference.parse(reference)):
        evidence = ledger.evidence(version)
        data.append(_version_data(version) | {"evidence": evidence.model_dump(mode="json", by_alias=True)})
        facts = "\n".join(f"{name:<12}{value}" for name, value in _version_data(version).items())
        texts.append(f"{version.reference}\n{facts}\n\n{evidence_text(evidence)}")
    state.output.result(data, "\n\n\n".join(texts))


@click.command()
@click.argument("reference")
@click.option("--to", "channel", required=True, metavar="CHANNEL", help="Such as candidate, staging, production.")
@reason_option
@registry_options
@pass_state
def promote(
    state: State, reference: str, channel: str, reason: str, tracking_uri: str | None, store: Path | None
) -> None:
    """Point a channel at a release: at every cell of MODEL:VERSION, or at one with @CELL. All move, or none does.

    Refused where a cell of the release is missing or its evidence does not pass.
    """
    from registry.ledger import open_ledger
    from registry.promotion import current_user
    from registry.promotion import promote as promote_release
    from registry.store import open_store
    from targets.references import Reference

    ledger = open_ledger(tracking_uri, open_store(store))
    move = promote_release(ledger, Reference.parse(reference), channel, who=current_user(), why=reason)
    _show_move(state, move)


@click.command()
@click.argument("model")
@click.option("--channel", default="production", show_default=True, help="Whose last promotion to take back.")
@reason_option
@registry_options
@pass_state
def rollback(state: State, model: str, channel: str, reason: str, tracking_uri: str | None, store: Path | None) -> None:
    """Take the last promotion of a channel back: every cell that it moved goes where it stood before."""
    from registry.ledger import open_ledger
    from registry.promotion import current_user
    from registry.promotion import rollback as roll_back
    from registry.store import open_store

    ledger = open_ledger(tracking_uri, open_store(store))
    _show_move(state, roll_back(ledger, model, channel, who=current_user(), why=reason))


@click.command()
@click.argument("model")
@registry_options
@pass_state
def history(state: State, model: str, tracking_uri: str | None, store: Path | None) -> None:
    """List every move of a model's channels: who, when, from, to, why. Newest first."""
    from registry.ledger import open_ledger
    from registry.promotion import history as moves_of
    from registry.store import open_store

    moves = moves_of(open_ledger(tracking_uri, open_store(store)), model)
    rows = [
        (
            f"{m.when:%Y-%m-%d %H:%M:%S}Z",
            m.who,
            m.title,
            cell.cell,
            _stand(cell.before),
            _stand(cell.after),
            m.state,
            m.why or "-",
        )
        for m in moves
        for cell in m.cells
    ]
    text = table(("when", "who", "move", "cell", "from", "to", "state", "why"), rows) if rows else "no moves yet"
    state.output.result([_move_data(m) for m in moves], text)


def _show_move(state: State, move: Move) -> None:
    if not move.id:
        state.output.result(_move_data(move), f"{move.channel} is there already: nothing to move")
        return
    rows = [(cell.cell, _stand(cell.before), _stand(cell.after)) for cell in move.cells]
    state.output.result(_move_data(move), f"{move.title}\n\n{table(('cell', 'from', 'to'), rows)}")


def _stand(stand: Stand | None) -> str:
    return "-" if stand is None else stand.release


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
