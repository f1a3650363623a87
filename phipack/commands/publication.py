"""`publish`: what a release engineer does to put a channel before phones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack import completion
from phipack.commands.opening import open_project_registry
from phipack.options import State, keys_option, pass_state, refuse_unread
from phipack.tables import table
from targets.formatting import size

if TYPE_CHECKING:
    from registry.publication import Publication


@click.command()
@click.argument("model", required=False, shell_complete=completion.models)
@click.option(
    "--channel",
    default="production",
    show_default=True,
    shell_complete=completion.channels,
    help="The channel whose bundles are published.",
)
@click.option(
    "--rollout",
    default=100.0,
    show_default=True,
    type=click.FloatRange(min=0.01, max=100),
    metavar="PERCENT",
    help="Share of installations that may have it; the others keep the release before. Widen it by publishing again.",
)
@click.option(
    "--to", "place", metavar="PLACE", help="The catalog: a folder or s3://BUCKET/PREFIX. [default: the --store]"
)
@click.option("--deltas/--no-deltas", default=True, show_default=True, help="Offer deltas from what phones have.")
@click.option(
    "--drop",
    multiple=True,
    metavar="CELL",
    help="A published cell (repeatable) that the channel lost in MLflow, and that no move has taken out: phones are to"
    " lose it, too.",
)
@click.option(
    "--newest-only",
    is_flag=True,
    help="Offer no earlier release to apps whose runtimes can't run the newest, and forget those that were offered.",
)
@click.option(
    "--new-catalog",
    is_flag=True,
    help="Begin a catalog in a place that has none. A first publication needs it, except in the bundles' own store.",
)
@click.option("--refresh", is_flag=True, help="Publish nothing new: sign the catalog again, before it expires.")
@keys_option
@pass_state
def publish(
    state: State,
    model: str | None,
    channel: str,
    rollout: float,
    place: str | None,
    deltas: bool,
    drop: tuple[str, ...],
    newest_only: bool,
    new_catalog: bool,
    refresh: bool,
    keys: Path,
) -> None:
    """Publish a channel as a signed catalog, which any web server or CDN can serve to phones.

    Phones see it when all of it is there: the catalog's timestamp is written last. Published releases stay available.
    Cells whose release is out for more installations than --rollout already, such as those that a new release does not
    have, stay as they are. Refused where a published cell has vanished from the channel: see --drop and phipack retire.
    """
    from phipack.api.arguments import as_store
    from phipack.json_form.registry import publish_form, refresh_form

    if refresh:
        unread = ("model", "channel", "rollout", "deltas", "drop", "newest_only", "new_catalog")
        refuse_unread("--refresh publishes nothing new", *unread)
    registry = open_project_registry(state)
    catalog = registry.store if place is None else as_store(place, state.output.on_progress)
    if refresh:
        expires = registry.refresh_catalog(catalog, keys=keys)
        text = f"{catalog.uri}: signed again, valid until {expires:%Y-%m-%d %H:%M} UTC"
        state.output.result(refresh_form(catalog.uri, expires).data(), text)
        return
    if model is None:
        raise click.UsageError("name a MODEL, or use --refresh")
    published = registry.publish(
        model,
        catalog,
        channel=channel,
        rollout_percent=rollout,
        deltas=deltas,
        drop=drop,
        newest_only=newest_only,
        new_catalog=new_catalog,
        keys=keys,
    )
    state.output.result(publish_form(published, catalog.uri).data(), _text(published, catalog.uri))


def _text(published: Publication, catalog: str) -> str:
    rows = [
        (
            cell.name,
            cell.recipe,
            size(cell.bytes),
            ", ".join(f"{one.release} {one.basis_points / 100:g} %" for one in cell.stages),
            str(cell.deltas),
        )
        for cell in published.cells
    ]
    unchanged = ", ".join(cell.name for cell in published.cells if not cell.changed)
    new = " (a new catalog)" if published.new_catalog else ""
    where = f"{published.model}, {published.channel}: published at {catalog}{new}"
    parts = (
        f"{where}, valid until {published.expires:%Y-%m-%d %H:%M} UTC",
        table(("cell", "recipe", "size", "releases", "deltas"), rows) if rows else "the channel is empty now",
        f"as they were: {unchanged}" if unchanged else "",
        *(
            f"{one.name}, for apps with older runtimes: {', '.join(one.earlier)}"
            for one in published.cells
            if one.earlier
        ),
        f"no longer in the channel: {', '.join(published.dropped)}" if published.dropped else "",
    )
    return "\n\n".join(filter(None, parts))
