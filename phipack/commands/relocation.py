"""`registry relocate`: a registry after its store was moved."""

from __future__ import annotations

import click

from phipack.commands.opening import open_registry
from phipack.options import State, pass_state
from phipack.tables import table
from targets.formatting import count


@click.group(name="registry")
def registry_group() -> None:
    """Look after a registry itself."""


@registry_group.command()
@click.option("--dry-run", is_flag=True, help="Change nothing; show what would be re-pointed.")
@pass_state
def relocate(state: State, dry_run: bool) -> None:
    """Re-point what is registered to the store that is named now, after a project's folder or its store was moved.

    The digest decides: versions are re-pointed if a bundle is no longer where they were registered, and all of their
    bundles and evidence are in this store. All or none; in SQLite and PostgreSQL.
    """
    from phipack.json_form.registry import relocation_form

    registry = open_registry(state)
    found = registry.relocate(dry_run=dry_run)
    done = "to re-point" if dry_run else "re-pointed"
    text = f"{found.store}: {count(len(found.moved), 'version')} {done}, {count(found.kept, 'version')} left alone"
    rows = [(row.reference, row.store) for row in found.moved]
    state.output.result(
        relocation_form(found, dry_run=dry_run).data(),
        f"{text}\n\n{table(('version', 'was in'), rows)}" if rows else text,
    )
