"""The pages of a release: its cells, one cell with its evidence, and a command to copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from phipack.web.cells import CellRow, cell_rows
from phipack.web.known import Known, NotFoundError, Page, crumbs_of, version_of
from phipack.web.prepared import KINDS, Wanted, command
from phipack.web.rendering import path_of
from registry.catalog.documents import ReleaseDocument
from registry.ledger.channel_moves import Move
from registry.ledger.release_plan import Noted
from registry.ledger.versions import CellVersion, channels_at
from targets.errors import MalformedReferenceError, PhipackError
from targets.evidence import FIGURES
from targets.references import Version


def release_page(known: Known, model: str, release: str) -> Page:
    """Return a release's page: its cells with their figures, next to what is published of it."""
    known.require_model(model)
    version = _version(release)
    rows = [row for row in known.of(model) if row.release == version]
    document = _document(known, model, release)
    if not rows and document is None:
        if known.versions.problem is not None:
            raise known.versions.problem
        raise NotFoundError(
            f"{model}:{release} is neither registered nor published", fix=f"see the releases of {model}"
        )
    noted = _noted(known, model, version) if rows else Noted()
    missing = None if noted is None else _missing(noted, rows)
    content = {
        "model": model,
        "release": release,
        "cells": _shown(known, rows),
        "missing": missing or (),
        "is_plan_read": missing is not None,
        "other_bytes": _other_bytes(rows, document),
        "document": document,
        "channels": sorted(channels_at(rows)),
        "reason": "" if noted is None else noted.reason,
    }
    return Page("release", f"{model}:{release}", content, crumbs_of(model))


def cell_page(known: Known, model: str, release: str, cell: str) -> Page:
    """Return one cell's page: verdict, gates, figures, what was measured on devices, where it was promoted."""
    known.require_model(model)
    row = version_of(known, model, release, cell)
    (shown,) = _shown(known, [row])
    evidence = known.answered("The evidence can't be read", known.source.evidence(row))
    measured = known.answered("Measurements on devices can't be read", known.source.measurements(row.digest))
    moves = known.answered("The history can't be read", known.source.history(model))
    document = _document(known, model, release)
    entry = None if document is None else document.cells.get(cell)
    link = known.source.registry.run_link(row.run_id)
    content = {
        "model": model,
        "row": row,
        "cell": shown,
        "target": known.targets.get(row.target),
        "evidence": evidence,
        "meanings": {name: FIGURES.get(name, ("", name))[1] for name in (evidence.figures if evidence else ())},
        "measurements": measured,
        "moves": None if moves is None else _moves_of(moves, cell, release),
        "entry": entry,
        "is_same": entry is not None and entry.bundle == row.digest,
        "run": link,
    }
    release_crumb = (path_of("models", model, "releases", release), release)
    return Page("cell", row.reference, content, (*crumbs_of(model), release_crumb))


def prepare_page(known: Known, model: str, sent: Mapping[str, str]) -> Page:
    """Return the form of a promotion, retirement or rollback, and its command once it is filled in."""
    known.require_model(model)
    rows = known.of(model)
    releases = sorted({row.release for row in rows}, reverse=True)
    try:
        wanted, problem = Wanted.of(sent), None
    except PhipackError as error:
        wanted, problem = Wanted(), error
    text, against = "", []
    if sent.get("show") and problem is None:
        try:
            text = command(model, wanted)
            against = _against(known, model, wanted)
        except PhipackError as error:
            problem = error
    content = {
        "model": model,
        "wanted": wanted,
        "kinds": KINDS,
        "releases": [str(one) for one in releases],
        "cells": sorted({row.cell for row in rows}),
        "channels": sorted({*known.channels(model), "production", "staging", "candidate"}),
        "command": text,
        "problem": problem,
        "against": against,
    }
    return Page("prepare", f"Prepare a change of {model}", content, crumbs_of(model))


def _shown(known: Known, rows: Sequence[CellVersion]) -> list[CellRow]:
    summaries = known.answered("The evidence can't be read", known.source.summaries(rows))
    return cell_rows(rows, summaries or {}, known.targets)


def _noted(known: Known, model: str, version: Version) -> Noted | None:
    """Return what is noted of a release; None where that can't be read, which the page then says."""
    found: Noted | None = known.answered("What the release plans can't be read", known.source.noted(model, version))
    return found


def _missing(noted: Noted, rows: Sequence[CellVersion]) -> list[str]:
    """Return the cells that the release plans and that are not registered."""
    return sorted(set(noted.cells) - {row.cell for row in rows})


def _other_bytes(rows: Sequence[CellVersion], document: ReleaseDocument | None) -> list[str]:
    entries = {} if document is None else document.cells
    return [row.cell for row in rows if row.cell in entries and entries[row.cell].bundle != row.digest]


def _document(known: Known, model: str, release: str) -> ReleaseDocument | None:
    return known.of_catalog(lambda published: None if published is None else published.release(model, release))


def _against(known: Known, model: str, wanted: Wanted) -> list[str]:
    """Return what the command would be refused for, as far as that is known here."""
    rows = known.of(model)
    at = {row.cell for row in rows if wanted.channel in row.channels}
    if wanted.kind == "retire":
        return [] if wanted.cell in at else [f"{wanted.channel} does not point at a version of {wanted.cell}."]
    if wanted.kind == "rollback":
        return [] if at else [f"{wanted.channel} points at nothing."]
    chosen = [row for row in rows if str(row.release) == wanted.release and wanted.cell in ("", row.cell)]
    if not chosen:
        return [f"{model}:{wanted.release} has no such cell." if wanted.cell else "No such release is registered."]
    if wanted.override:
        return []
    found = [f"{one.version.cell}: {one.why}." for one in _shown(known, chosen) if one.state in ("fail", "none")]
    if not wanted.cell:
        noted = _noted(known, model, chosen[0].release) or Noted()  # what can't be read is among the page's problems
        found += [f"{cell}: planned and not registered." for cell in _missing(noted, chosen)]
    return found


def _moves_of(moves: Sequence[Move], cell: str, release: str) -> list[Move]:
    return [move for move in moves if any(_is_part(part, cell, release) for part in move.cells)]


def _is_part(part: Any, cell: str, release: str) -> bool:
    ends = (part.before, part.after)
    return part.cell == cell and any(one is not None and one.release == release for one in ends)


def _version(text: str) -> Version:
    try:
        return Version.parse(text)
    except MalformedReferenceError as error:
        raise NotFoundError(error.problem, fix=error.fix) from error
