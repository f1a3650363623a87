"""`gc`: what keeps a store small."""

from __future__ import annotations

import click

from phipack.commands.opening import open_registry
from phipack.options import State, pass_state
from targets.formatting import count, size


@click.command()
@click.option("--dry-run", is_flag=True, help="Remove nothing; show what would be removed.")
@click.option(
    "--grace",
    "grace_hours",
    default=24.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="HOURS",
    help="Leave alone what was added or used within this time: longer than any release takes, at least 1.",
)
@pass_state
def gc(state: State, dry_run: bool, grace_hours: float) -> None:
    """Remove from the store what no version, channel or published catalog refers to.

    Safe while a release is running. A store belongs to one registry: versions that another registry keeps there are
    not known, and their bundles would be removed.
    """
    from phipack.json_form.registry import garbage_form

    registry = open_registry(state)
    found = registry.collect_garbage(dry_run=dry_run, grace_hours=grace_hours)
    done = "to remove" if dry_run else "removed"
    text = (
        f"{registry.store.uri}: {count(len(found.removed), 'blob')} of {size(found.bytes)},"
        f" {count(found.leftovers, 'leftover')} and {count(found.records, 'record')} {done};"
        f" {count(found.kept, 'blob')} kept"
    )
    state.output.result(garbage_form(found, registry.store.uri, dry_run=dry_run).data(), text)
