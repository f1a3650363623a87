"""`gc`: what keeps a store small."""

from __future__ import annotations

import click

from phipack.options import State, pass_state, registry_options
from phipack.output import size


@click.command()
@click.option("--dry-run", is_flag=True, help="Remove nothing; say what would be removed.")
@click.option(
    "--grace",
    "grace_hours",
    default=24.0,
    show_default=True,
    type=click.FloatRange(min=1),
    metavar="HOURS",
    help="Leave alone what was added or found useful for so long: longer than any release takes.",
)
@registry_options
@pass_state
def gc(state: State, dry_run: bool, grace_hours: float, tracking_uri: str | None, store: str | None) -> None:
    """Remove from the store what no version, channel or published catalog refers to.

    Safe beside a release that is running. A store belongs to one registry: what another one registered there is not
    known, and would be removed.
    """
    from dataclasses import asdict

    from registry.garbage import collect
    from registry.ledger.reader import open_reader
    from registry.store.uris import open_store

    blobs = open_store(store)
    reader = open_reader(tracking_uri, blobs)
    found = collect(
        blobs, reader, grace_seconds=grace_hours * 3600, dry_run=dry_run, on_progress=state.output.on_progress
    )
    text = (
        f"{blobs.uri}: {len(found.removed)} blobs of {size(found.bytes)} and {found.leftovers} leftovers"
        f" {'would be' if dry_run else 'were'} removed; {found.kept} blobs stay"
    )
    state.output.result(asdict(found) | {"bytes": found.bytes, "dry_run": dry_run, "store": blobs.uri}, text)
