"""The pages of models and channels: each function returns what one page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from phipack.web.cells import NEWEST, CellRow, Filter, cell_rows, device_title, scope_named
from phipack.web.known import Known, NotFoundError, Page, crumbs_of
from phipack.web.prepared import publication
from phipack.web.standing import STATES, Standing, channel_document, published_releases
from registry.ledger.channel_moves import Move
from registry.ledger.versions import CellVersion, channels_at
from targets.errors import PhipackError
from targets.evidence import FIGURES
from targets.references import Version

_LATEST_MOVES = 5


@dataclass(frozen=True)
class ChannelRow:
    """A channel in short. `registered`, `published`: where each side has its cells, as text.

    `is_known`: whether both sides could be read.
    """

    name: str
    registered: str
    published: str
    cells: Sequence[Standing]
    is_known: bool = True

    @property
    def state(self) -> tuple[str, str]:
        """Return style and words of how far both sides agree."""
        states = {one.state for one in self.cells}
        return STATES[next((state for state in STATES if state in states), "same" if self.is_known else "unknown")]


@dataclass(frozen=True)
class ReleaseRow:
    """A release in short. `published`: the channels that have it for phones, with shares."""

    version: Version
    rows: Sequence[CellVersion]
    published: str

    @property
    def passing(self) -> int:
        """How many of its registered cells pass. Which cells it plans is on its own page."""
        return sum(row.gates_passed for row in self.rows)

    @property
    def channels(self) -> list[str]:
        """The channels that point at one of its cells."""
        return sorted(channels_at(self.rows))


@dataclass(frozen=True)
class ModelRow:
    """A model in short. `newest`: its newest registered release."""

    name: str
    newest: ReleaseRow | None
    channels: Sequence[ChannelRow]
    releases: int


@dataclass(frozen=True)
class MatrixRow:
    """A cell with its device, its newest registered version, and where each channel has it."""

    cell: str
    device: str
    newest: CellVersion | None
    places: Sequence[Standing | None]


def overview(known: Known) -> Page:
    """Return the front page: all models."""
    models = []
    for name in known.models():
        releases = _releases(known, name)
        registered = [one for one in releases if one.rows]
        models.append(ModelRow(name, registered[0] if registered else None, _channels(known, name), len(releases)))
    return Page("overview", "Models", {"models": models}, here="models")


def model_page(known: Known, model: str) -> Page:
    """Return a model's page: its channels, its cells by device, its releases, its last moves."""
    known.require_model(model)
    channels = _channels(known, model)
    moves = _moves(known, model)
    content = {
        "model": model,
        "channels": channels,
        "cells": _cell_matrix(known, model, channels),
        "releases": _releases(known, model),
        "moves": None if moves is None else moves[:_LATEST_MOVES],
        "moves_in_all": 0 if moves is None else len(moves),
    }
    return Page("model", model, content, (("/", "Models"),))


def channel_page(known: Known, model: str, channel: str) -> Page:
    """Return a channel's page: where each cell is in the registry, and what phones get."""
    known.require_model(model)
    if channel not in known.channels(model):
        raise NotFoundError(f"channel {channel!r} of {model} points at nothing", fix=f"see the channels of {model}")
    row = _channel(known, model, channel)
    moves = _moves(known, model)
    content = {
        "model": model,
        "channel": row,
        "devices": {one.cell: device_title(one.target, known.targets) for one in row.cells},
        "publish": _publication(model, row),
        "is_history_read": moves is not None,
        "last": next((one for one in moves or () if one.channel == channel and one.state == "done"), None),
    }
    return Page("channel", f"{model}: {channel}", content, crumbs_of(model))


def history_page(known: Known, model: str, channel: str, cell: str) -> Page:
    """Return the moves of a model's channels, of one channel, or of one cell."""
    known.require_model(model)
    moves = _moves(known, model)
    found = [
        move
        for move in moves or ()
        if channel in ("", move.channel) and (not cell or any(part.cell == cell for part in move.cells))
    ]
    content = {
        "model": model,
        "moves": None if moves is None else found,
        "channel": channel,
        "cell": cell,
        "channels": sorted({move.channel for move in moves or ()}),
        "cells": sorted({part.cell for move in moves or () for part in move.cells}),
    }
    return Page("history", f"History of {model}", content, crumbs_of(model))


def cells_page(known: Known, wanted: Filter) -> Page:
    """Return the cells that a filter lets through."""
    channels = sorted(channels_at(known.rows or ()))
    try:
        scope, problems = scope_named(wanted.scope, channels), dict(wanted.problems)
    except PhipackError as error:
        scope, problems = error.problem, {**wanted.problems, "in": error.fix}
    versions = wanted.versions(known.rows or (), known.targets)
    summaries = known.answered("The evidence can't be read", known.source.summaries(versions)) or {}
    found, unknown = wanted.apply(cell_rows(versions, summaries, known.targets))
    titles = {device_title(row.target, known.targets) for row in known.rows or ()}
    content = {
        "filter": wanted,
        "problems_of_form": problems,
        "scope": scope,
        "rows": sorted(found, key=_by_device),
        "unknown": sorted(unknown, key=_by_device),
        "looked_at": len(versions),
        "scopes": [(name, f"channel {name}") for name in channels or ["production"]] + [(NEWEST, "newest releases")],
        "models": known.models(),
        "devices": sorted(titles),
        "figures": sorted(FIGURES),
    }
    return Page("cells", "Find cells", content, here="cells")


def _by_device(row: CellRow) -> tuple[str, str, str]:
    return row.device.casefold(), row.version.model, row.version.cell


def _moves(known: Known, model: str) -> Sequence[Move] | None:
    """Return a model's moves; None where they can't be read, which the page then says."""
    if known.rows is None:
        return None
    moves: Sequence[Move] | None = known.answered("The history can't be read", known.source.history(model))
    return moves


def _channels(known: Known, model: str) -> list[ChannelRow]:
    return [_channel(known, model, name) for name in known.channels(model)]


def _channel(known: Known, model: str, name: str) -> ChannelRow:
    cells = known.standings(model, name)
    releases = sorted({one.registered.release for one in cells if one.registered is not None}, reverse=True)
    registered = ", ".join(map(str, releases)) or ("nothing" if known.rows is not None else "not known")
    published = " / ".join(sorted({one.published for one in cells}))
    published = published or ("nothing" if known.is_catalog_read else "not known")
    return ChannelRow(name, registered, published, cells, known.rows is not None and known.is_catalog_read)


def _releases(known: Known, model: str) -> list[ReleaseRow]:
    """Return the releases of a model on either side, newest first."""
    rows = known.of(model)
    there = known.of_catalog(lambda published: published_releases(model, published))
    found = sorted({row.release for row in rows} | set(there), reverse=True)
    return [
        ReleaseRow(
            version, [row for row in rows if row.release == version], _published_in(known, model, version, there)
        )
        for version in found
    ]


def _published_in(known: Known, model: str, version: Version, there: Sequence[Version]) -> str:
    """Return where phones get a release: `production (10 %)`; that it is kept only, or not published."""
    found = []
    for channel in known.channels(model):
        document = known.of_catalog(partial(channel_document, model, channel))
        shares = {
            stage.basis_points
            for stages in (() if document is None else document.cells.values())
            for stage in stages
            if stage.release == str(version)
        }
        if shares:
            share = max(shares)
            found.append(channel if share == 10_000 else f"{channel} ({share / 100:g} %)")
    if found:
        return ", ".join(found)
    if not known.is_catalog_read:
        return "not known"
    return "by version only" if version in there else "no"


def _publication(model: str, channel: ChannelRow) -> str:
    """Return the command that publishes a channel; nothing where both sides agree, or no command takes the name."""
    if all(one.state not in ("differs", "unpublished") for one in channel.cells):
        return ""
    try:
        return publication(model, channel.name)
    except PhipackError:
        return ""


def _cell_matrix(known: Known, model: str, channels: Sequence[ChannelRow]) -> list[MatrixRow]:
    rows = known.of(model)
    places = {(channel.name, one.cell): one for channel in channels for one in channel.cells}
    found = []
    for cell in sorted({row.cell for row in rows} | {cell for _, cell in places}):
        newest = max((row for row in rows if row.cell == cell), key=lambda row: row.release, default=None)
        own = [places.get((channel.name, cell)) for channel in channels]
        target = newest.target if newest else next(one.target for one in own if one is not None)
        found.append(MatrixRow(cell, device_title(target, known.targets), newest, own))
    return sorted(found, key=lambda one: (one.device.casefold(), one.cell))
