"""`publish`: what a release engineer does to put a channel before phones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack import completion
from phipack.options import State, keys_option, pass_state, registry_options
from phipack.output import size, table

if TYPE_CHECKING:
    from registry.publication import Publication
    from targets.devices import Target


@click.command()
@click.argument("model", required=False, shell_complete=completion.models)
@click.option(
    "--channel",
    default="production",
    show_default=True,
    shell_complete=completion.channels,
    help="Whose bundles are published.",
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
@click.option("--refresh", is_flag=True, help="Publish nothing new: sign the catalog anew, before it expires.")
@keys_option
@registry_options
@pass_state
def publish(
    state: State,
    model: str | None,
    channel: str,
    rollout: float,
    place: str | None,
    deltas: bool,
    refresh: bool,
    keys: Path,
    tracking_uri: str | None,
    store: str | None,
) -> None:
    """Publish a channel as a signed catalog, which any web server or CDN can give to phones.

    Phones see it when all of it is there: the catalog's timestamp is written last. A release that was published stays.
    """
    from registry.catalog.signing import open_keys
    from registry.ledger.reader import open_reader
    from registry.publication import Order
    from registry.publication import publish as publish_channel
    from registry.publication import refresh as sign_again
    from registry.store.uris import open_store

    blobs = open_store(store)
    into = blobs if place is None else open_store(place)
    opened = open_keys(keys)
    if refresh:
        expires = sign_again(into, opened)
        text = f"{into.uri}: signed again, valid until {expires:%Y-%m-%d %H:%M} UTC"
        state.output.result({"catalog": into.uri, "expires": expires.isoformat()}, text)
        return
    if model is None:
        raise click.UsageError("name a MODEL, or give --refresh")
    order = Order(model, channel, round(rollout * 100), deltas)
    published = publish_channel(
        open_reader(tracking_uri, blobs),
        order,
        into,
        opened,
        targets=_targets(state),
        on_progress=state.output.on_progress,
    )
    _show(state, published, into.uri)


def _targets(state: State) -> dict[str, Target]:
    from targets.devices import load_targets

    cells = () if state.project is None else state.project.cells
    return load_targets() | {cell.target.name: cell.target for cell in cells}


def _show(state: State, published: Publication, place: str) -> None:
    from dataclasses import asdict

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
    text = (
        f"{published.model}, {published.channel}: published at {place},"
        f" valid until {published.expires:%Y-%m-%d %H:%M} UTC"
        f"\n\n{table(('cell', 'recipe', 'size', 'releases', 'deltas'), rows)}"
    )
    data = asdict(published) | {
        "catalog": place,
        "expires": published.expires.isoformat(),
        "cells": [asdict(cell) | {"stages": [one.model_dump() for one in cell.stages]} for cell in published.cells],
    }
    state.output.result(data, text)
