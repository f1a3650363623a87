"""Searching MLflow for versions: with as few rows and requests as the question allows.

What a server takes for an answer is mostly the tags in it, about a millisecond for each version.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from registry.ledger.mlflow_client import Mlflow
from registry.ledger.versions import (
    CELL_TAG,
    MODEL_TAG,
    RELEASE_TAG,
    CellVersion,
    is_at_home,
    settled,
    version_from_tags,
)
from targets.references import Version

_ROWS = 600  # versions in one request, as far as registered models can be divided
_NAMES = 30  # registered models in one request: they are in its URL, which servers limit to 8 kB


def versions_of(mlflow: Mlflow, model: str | None, release: Version | None, *, copies: bool) -> list[CellVersion]:
    """Return all versions of a model, or of all models, or those of one release: see `Reader.versions`."""
    if not _fits_filter(model or ""):
        return []
    homes = {row.name: row for row in mlflow.registered_models(_of_model(model))}
    wanted = "" if release is None else f" AND tags.`{RELEASE_TAG}` = '{release}'"
    if copies:
        return _settled(homes, mlflow.versions(_of_model(model) + wanted))
    asked = [f"{condition}{wanted}" for condition in _conditions(homes.values(), model)]
    answers = mlflow.at_once([partial(mlflow.versions, one) for one in asked])
    return _settled(homes, _at_home(homes, [row for rows in answers for row in rows]))


def versions_in_channel(mlflow: Mlflow, model: str, channel: str, cell: str | None) -> list[CellVersion]:
    """Return what a channel of a model points at, of all cells or of one: see `Reader.in_channel`.

    A search for registered models has the last version of each. The others are asked for by their numbers, which are
    the same for all cells of a release as long as every release has them all: so it takes one to three requests.
    """
    if not _fits_filter(model, cell or ""):
        return []
    wanted = _of_model(model, cell)
    homes = {row.name: row for row in mlflow.registered_models(wanted)}
    numbers = {name: int(row.aliases[channel]) for name, row in homes.items() if channel in row.aliases}
    rows = [row for name in numbers for row in homes[name].latest_versions if int(row.version) == numbers[name]]
    missing = numbers.keys() - {row.name for row in rows}
    if len(missing) == 1:  # the cheapest question for one
        asked = [partial(_by_alias, mlflow, missing.pop(), channel)]
    else:
        of_number = sorted({numbers[name] for name in missing})
        asked = [partial(mlflow.versions, f"{wanted} AND version_number = {number}") for number in of_number]
    found = [row for answer in mlflow.at_once(asked) for row in answer]
    rows += [row for row in found if numbers.get(row.name) == int(row.version)]
    return _settled(homes, _at_home(homes, rows))


def _by_alias(mlflow: Mlflow, name: str, channel: str) -> list[Any]:
    row = mlflow.version_by_alias(name, channel)
    return [] if row is None else [row]


def _fits_filter(*names: str) -> bool:
    """Return whether MLflow's filters can have these texts. No model or cell of ours has one that they can't."""
    return not any("'" in name or "\\" in name for name in names)


def _of_model(model: str | None, cell: str | None = None) -> str:
    """Return the filter for registered models, or versions, of one model or of any, and of one cell."""
    wanted = f"tags.`{MODEL_TAG}` = '{model}'" if model else f"tags.`{MODEL_TAG}` != ''"
    return wanted if cell is None else f"{wanted} AND tags.`{CELL_TAG}` = '{cell}'"


def _conditions(homes: Collection[Any], model: str | None) -> list[str]:
    """Return filters that let the versions of these registered models through, each once.

    By name, which costs a server half of what tags do. Each filter has whole registered models, so that no row is
    missed where another process changes rows in between.
    """
    if not _fits_filter(*(home.name for home in homes)):  # renamed to what a filter can't say
        return [_of_model(model)]
    return [f"name IN ({', '.join(group)})" for group in _groups(homes)]


def _groups(homes: Iterable[Any]) -> Iterator[Sequence[str]]:
    """Divide names, quoted, into groups of limited size. A last number is at least the count of versions."""
    group: list[str] = []
    rows = 0
    for home in homes:
        count = max((int(row.version) for row in home.latest_versions), default=0)
        if group and (rows + count > _ROWS or len(group) == _NAMES):
            yield group
            group, rows = [], 0
        group.append(f"'{home.name}'")
        rows += count
    if group:
        yield group


def _at_home(homes: dict[str, Any], rows: Iterable[Any]) -> list[Any]:
    return [row for row in rows if row.name in homes and is_at_home(row.tags, homes[row.name].tags)]


def _settled(homes: dict[str, Any], rows: Iterable[Any]) -> list[CellVersion]:
    channels: dict[tuple[str, int], list[str]] = {}
    for home in homes.values():
        for alias, number in home.aliases.items():
            channels.setdefault((home.name, int(number)), []).append(alias)
    return settled([_cell_version(row, channels.get((row.name, int(row.version)), ())) for row in rows])


def _cell_version(row: Any, channels: Sequence[str]) -> CellVersion:
    number, created = int(row.version), row.creation_timestamp
    return version_from_tags(row.name, number, row.tags, created_ms=created, channels=channels)
