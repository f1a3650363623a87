"""What the shell offers on Tab: recipes, targets, models, references, channels and cells.

Fast and silent: a registry in SQLite is read directly, no other kind is asked, and what goes wrong offers nothing. The
shells' scripts are in `shell_scripts.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import click

from phipack.state import State

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from registry.ledger.versions import CellVersion

Offer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem] | list[str]"]
_PATH_STARTS = (".", "/", "~")


def _offering(offer: Callable[[click.Context, str], Iterable[str]]) -> Offer:
    """Offer what starts with the word so far; nothing where something goes wrong."""

    @functools.wraps(offer)
    def offered(context: click.Context, _: click.Parameter, word: str) -> list[str]:
        try:
            found = (one for one in offer(context, word) if one.startswith(word))
            return list(dict.fromkeys(one for one in found if one.isprintable()))
        except Exception:  # noqa: BLE001 - a message in the middle of what is being typed helps nobody
            return []

    return offered


@_offering
def recipes(_context: click.Context, _word: str) -> Iterable[str]:
    """Offer recipes."""
    from targets.recipes import RECIPES

    return RECIPES


@_offering
def targets(_context: click.Context, _word: str) -> Iterable[str]:
    """Offer the targets that come with phipack."""
    from targets.devices import load_targets

    return load_targets()


@_offering
def known_models(_context: click.Context, _word: str) -> Iterable[str]:
    """Offer the released Phi-3 models that `fit` knows."""
    from targets.models import KNOWN_MODELS

    return KNOWN_MODELS


@_offering
def models(context: click.Context, _word: str) -> Iterable[str]:
    """Offer registered models."""
    return sorted({row.model for row in _rows(context)})


@_offering
def channels(context: click.Context, _word: str) -> Iterable[str]:
    """Offer the usual channels, and those in use."""
    from registry.channel_names import USUAL
    from registry.ledger.versions import channels_at

    return sorted({*USUAL, *channels_at(_rows(context))})


@_offering
def project_cells(context: click.Context, _word: str) -> Iterable[str]:
    """Offer the project file's cells."""
    state = context.find_object(State)
    project = None if state is None else state.project
    return () if project is None else [cell.name for cell in project.cells]


@_offering
def references(context: click.Context, word: str) -> Iterable[str]:
    """Offer what can follow: a model, then its versions and channels, then its cells."""
    return _references(_rows(context), word)


def references_or_paths(context: click.Context, parameter: click.Parameter, word: str) -> list[CompletionItem]:
    """Offer references; folders where the word starts like a path, or no reference fits."""
    from click.shell_completion import CompletionItem

    found = [] if word.startswith(_PATH_STARTS) else references(context, parameter, word)
    return [CompletionItem(one) for one in found] or [CompletionItem(word, type="dir")]


def _references(rows: Sequence[CellVersion], word: str) -> list[str]:
    before_cell, at, _ = word.partition("@")
    if at:
        return [f"{before_cell}@{row.cell}" for row in rows if before_cell in _names(row)]
    model, colon, _ = word.partition(":")
    if not colon:
        found = sorted({row.model for row in rows if row.model.startswith(word)})
        return found if len(found) != 1 else [*found, *_names_of(rows, found[0])]
    found = [name for name in _names_of(rows, model) if name.startswith(word)]
    if len(found) == 1:
        found += [f"{found[0]}@{row.cell}" for row in rows if found[0] in _names(row)]
    return found


def _names(row: CellVersion) -> list[str]:
    """Every way to name the release that a row belongs to: `MODEL`, `MODEL:VERSION`, `MODEL:CHANNEL`."""
    return [row.model, f"{row.model}:{row.release}", *(f"{row.model}:{channel}" for channel in row.channels)]


def _names_of(rows: Sequence[CellVersion], model: str) -> list[str]:
    """Channels before versions, the newest version first."""
    from registry.ledger.versions import channels_at

    own = [row for row in rows if row.model == model]
    channels = sorted(channels_at(own))
    releases = sorted({row.release for row in own}, reverse=True)
    return [f"{model}:{name}" for name in [*channels, *map(str, releases)]]


def _rows(context: click.Context) -> list[CellVersion]:
    from registry.ledger.sqlite_reader import SqliteReader, has_known_schema
    from registry.ledger.tracking import sqlite_path

    state = context.find_object(State) or State()
    path = sqlite_path(state.tracking_uri)
    return SqliteReader(path).versions() if path is not None and has_known_schema(path) else []
