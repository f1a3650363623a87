"""What a phone gets from a catalog: release by version, range or channel; cell by name or device. Only reads.

Used by clients with verified metadata (`client.py`), and by a server of its own catalog (`phipack serve`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from registry.catalog.documents import CellEntry, Documents, ReleaseDocument, models_of, releases_of
from registry.catalog.rollout import ALL, stage_of
from registry.ledger.versions import PRODUCTION
from targets.errors import FetchError, closest, did_you_mean
from targets.recipes import Format
from targets.references import Reference, Version
from targets.runtimes import NO_OFFER, Offer, Shortfall, remedy, shortfalls
from targets.selection import OPTIONS, Choice, Device, QueryNames, choose


@dataclass(frozen=True)
class Query:
    """What is wanted. `reference`: by default the production channel of the only model.

    `install_id`: the installation's name, for staged rollout; without one, only a complete rollout counts.
    `offer`: the runtimes that the app ships; it gets the newest release that they can run.
    `names`: what whoever asks calls these parts.
    """

    reference: Reference | None = None
    device: Device = field(default_factory=Device)
    format: Format | None = None
    install_id: str | None = None
    offer: Offer = NO_OFFER
    names: QueryNames = OPTIONS


@dataclass(frozen=True)
class Resolved:
    """The cell that was chosen for a query, and why: `reasons` are sentences without full stops. `os`: its target's."""

    model: str
    release: str
    cell: str
    entry: CellEntry
    reasons: tuple[str, ...]
    os: str | None = None

    @property
    def reference(self) -> str:
        """The exact reference, `MODEL:1.0.0@CELL`."""
        return f"{self.model}:{self.release}@{self.cell}"


@dataclass(frozen=True)
class _Candidate:
    """A release of a cell, and the ones that an app gets that can't run it, newest first."""

    release: ReleaseDocument
    why: str
    older: tuple[str, ...] = ()


_Candidates = dict[str, _Candidate]


def resolve(documents: Documents, query: Query) -> Resolved:
    """Find the bundle for a query.

    Raises:
        FetchError: no such model, release, channel or cell; nothing for the device; not out for this installation yet;
            or nothing that the app's runtimes can run.
    """
    reference = query.reference or Reference(_only_model(documents, query.names))
    not_yet: _Candidates = {}
    if reference.version is not None or reference.range is not None:
        candidates = _of_release(documents, reference)
    else:
        candidates, not_yet = _of_channel(documents, reference, query.install_id)
    everything = candidates | not_yet
    if query.format is not None:
        everything = {name: one for name, one in everything.items() if one.release.cells[name].format == query.format}
    reasons: tuple[str, ...] = ()
    if query.offer:
        everything, choice, reasons = _chosen_to_run(documents, reference, query, everything)
    else:
        choice = _chosen(reference, query, everything)
    if choice.cell not in candidates:
        raise FetchError(
            f"{reference}: {everything[choice.cell].release.release} of cell {choice.cell} is being rolled out,"
            " and this installation is not among the first",
            fix="wait until it is rolled out further, or ask for a version",
        )
    one = everything[choice.cell]
    document = one.release
    reasons = (one.why, *reasons, choice.why)
    entry = document.cells[choice.cell]
    os = document.devices[entry.target].os
    return Resolved(document.model, document.release, choice.cell, entry, reasons, os)


@dataclass(frozen=True)
class _Unable:
    """Why the app can't run the newest release of a cell, and what would help."""

    text: str
    remedy: str


def _runnable(documents: Documents, query: Query, candidates: _Candidates) -> tuple[_Candidates, dict[str, _Unable]]:
    """Return the newest release of each cell that the app can run, and why it can't run newer ones."""
    found: _Candidates = {}
    unable: dict[str, _Unable] = {}
    for cell, newest in candidates.items():
        problems = _problems(query, newest.release, cell)
        if not problems:
            found[cell] = newest
            continue
        why = "; ".join(one.text for one in problems)
        entry = newest.release.cells[cell]
        os = query.device.os or newest.release.devices[entry.target].os
        unable[cell] = _Unable(f"{newest.release.release}: {why}", remedy(entry.format, problems, os))
        for name in newest.older:
            document = documents.release(newest.release.model, name)
            if document is not None and cell in document.cells and not _problems(query, document, cell):
                found[cell] = _Candidate(document, f"{name} is the newest that the app's runtimes can run")
                break
    return found, unable


def _problems(query: Query, release: ReleaseDocument, cell: str) -> tuple[Shortfall, ...]:
    """Return why the app can't run a cell's bundle; nothing where the catalog does not say what it needs."""
    entry = release.cells[cell]
    if entry.requires is None:
        return ()
    os = query.device.os or release.devices[entry.target].os
    return shortfalls(entry.format, entry.requires, query.offer, os)


def _chosen_to_run(
    documents: Documents, reference: Reference, query: Query, candidates: _Candidates
) -> tuple[_Candidates, Choice, tuple[str, ...]]:
    """Choose among the cells that the app can run; return its candidates, too, and why it gets nothing newer."""
    able, unable = _runnable(documents, query, candidates)
    try:
        choice = _chosen(reference, query, able) if able else None
    except FetchError:
        choice = None
    if choice is not None:
        newer = (unable[choice.cell].text,) if choice.cell in unable else ()
        others = (f"not {cell}: {one.text}" for cell, one in unable.items() if cell not in able)
        return able, choice, (*newer, *others)
    wanted = _chosen(reference, query, candidates)  # raises where there is nothing for the device at all
    missing = unable.get(wanted.cell) or next(iter(unable.values()))
    raise FetchError(
        f"{reference}: the app can't run what is published for it: {missing.text}",
        fix=f"{missing.remedy}, or ask for an older version",
    )


def _chosen(reference: Reference, query: Query, candidates: _Candidates) -> Choice:
    if reference.cell is not None:
        if reference.cell not in candidates:
            raise FetchError(f"{reference}: no such cell", fix=did_you_mean(reference.cell, candidates))
        return Choice(reference.cell, f"cell {reference.cell} was asked for")
    return choose(
        query.device,
        {
            name: one.release.devices[target].device_class(target)
            for name, one in candidates.items()
            for target in (one.release.cells[name].target,)
        },
        query.names,
    )


def _only_model(documents: Documents, names: QueryNames) -> str:
    models = models_of(documents.paths)
    if len(models) != 1:
        raise FetchError(
            f"the catalog has {', '.join(models) or 'no models'}",
            fix=f"choose one: {names.reference}MODEL, or {names.reference}MODEL:^1.2@CELL",
        )
    return models[0]


def _of_release(documents: Documents, reference: Reference) -> _Candidates:
    known = sorted(Version.parse(release) for release in releases_of(reference.model, documents.paths))
    if reference.range is not None:
        matching = [one for one in known if one in reference.range]
    else:
        matching = [one for one in known if one == reference.version]
    wanted = matching[-1] if matching else None
    older = tuple(str(one) for one in reversed(matching[:-1]))
    document = None if wanted is None else documents.release(reference.model, str(wanted))
    if document is None:
        raise _nothing(documents, reference)
    return {name: _Candidate(document, f"{document.release} was asked for", older) for name in document.cells}


def _of_channel(documents: Documents, reference: Reference, install_id: str | None) -> tuple[_Candidates, _Candidates]:
    """Return what each cell has for the installation, and the cells that have nothing for it yet."""
    name = reference.channel or PRODUCTION
    channel = documents.channel(reference.model, name)
    if channel is None:
        raise _nothing(documents, reference)
    if not channel.cells:
        raise FetchError(
            f"{reference}: channel {name} has no cells any more: its publisher has taken them out",
            fix=f"ask for a version: {reference.model}:VERSION",
        )
    candidates: _Candidates = {}
    not_yet: _Candidates = {}
    for cell, stages in channel.cells.items():
        found = stage_of(reference.model, stages, install_id)
        stage = found or stages[-1]
        document = documents.release(reference.model, stage.release)
        if document is None or cell not in document.cells:
            raise FetchError(
                f"channel {name} points at {reference.model}:{stage.release}@{cell}, which is not published",
                fix="report it to the catalog's publisher",
            )
        share = f", rolled out to {stage.basis_points / 100:g} %" if stage.basis_points < ALL else ""
        below = [one.release for one in stages[stages.index(stage) + 1 :] if one.basis_points == ALL]
        older = (*below, *channel.earlier.get(cell, ()))
        one = _Candidate(document, f"{name} is at {stage.release}{share}", older)
        (candidates if found else not_yet)[cell] = one
    return candidates, not_yet


def _nothing(documents: Documents, reference: Reference) -> FetchError:
    models = models_of(documents.paths)
    if reference.model not in models:
        return FetchError(f"the catalog has no model {reference.model!r}", fix=did_you_mean(reference.model, models))
    before = f"{reference.model}/channels/"
    channels = sorted(path.removeprefix(before)[:-5] for path in documents.paths if path.startswith(before))
    releases = sorted(Version.parse(release) for release in releases_of(reference.model, documents.paths))
    newest = ", ".join(map(str, releases[-5:]))
    near = closest(reference.channel or "", channels)
    there = f"newest releases: {newest}; channels: {', '.join(channels) or 'none'}"
    fix = there if near is None else f"did you mean {near!r}? Else: {there}"
    return FetchError(f"{reference} is not published", fix=fix)
