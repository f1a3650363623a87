"""Reports for reviewers: what is registered of a release, or a bundle with its evidence, as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from builders.report.card import description, model_card
from builders.report.content import CellContent, Content, Recorded, Subject, named_apart
from builders.report.findings import findings, judged, overall
from builders.report.page import drawings, html
from builders.report.same_prompts import Prompting, SamePrompts, compare_prompts
from phipack.api.arguments import AnyPath, as_bundle, as_evidence
from phipack.api.earlier_releases import earlier_releases
from phipack.api.results import ReportPage, ReviewedCell
from registry.bundle.folder import Bundle
from registry.diff.compare import Side, compare, folder_side, stored_side, template_text, version_side
from registry.diff.layers import layer_changes
from registry.diff.token_texts import is_same_tokenizer, special_tokens, token_texts
from registry.ledger.ledger import Ledger
from registry.ledger.reader import Reader, resolve_in
from registry.ledger.registration import REPORT_NAME, Registration
from registry.ledger.release_plan import noted
from registry.ledger.tracking import run_link
from registry.ledger.versions import PRODUCTION, CellVersion
from registry.store.measurements import read_measurements
from registry.store.protocol import Store
from targets.devices import Target, load_targets
from targets.errors import PhipackError, RegistryError
from targets.evidence import Evidence
from targets.installation import PACKAGE, installed_version
from targets.measurement import Measurement
from targets.progress import Notice, Progress
from targets.references import Reference

Targets = Mapping[str, Target]
CARD_NAME = "README.md"  # of a cell's run, next to the report
_REPORT_NOTE = f"{REPORT_NAME} among the artifacts of the source run; or phipack report, for the whole release."


def report_bundle(
    bundle: AnyPath | Bundle, evidence: AnyPath | Evidence, *, measurements: Sequence[Measurement] = ()
) -> ReportPage:
    """Report on a bundle that is registered nowhere. Needs `phipack[report]`.

    Args:
        bundle: a folder or an opened bundle.
        evidence: what `phipack.validate` returned for it, or a file of that.
        measurements: of the bundle on devices.

    Raises:
        BundleError: it is no bundle. MeasurementError: the evidence can't be read, or is of another bundle.
        SetupError: Jinja2 or matplotlib is not installed.
    """
    opened = as_bundle(bundle)
    found = as_evidence(evidence)
    found.require_of(opened.digest, str(opened.path))
    side = replace(folder_side(opened.path), evidence=found)
    subject = _subject(side, opened.path.name, None, tuple(measurements), load_targets())
    return page(Content(str(opened.path), (CellContent(subject),), made=datetime.now(UTC), tool=tool()))


def report_release(
    ledger: Ledger, reader: Reader, reference: Reference, against: Reference | None, own: Targets
) -> ReportPage:
    """Report on what a reference stands for; see `Registry.report`."""
    versions = resolve_in(reader, reference)
    targets = {**load_targets(), **own}
    baseline = _baseline(reader, reference, against, versions)
    by_cell = {row.cell: row for row in baseline}
    named = against is not None and against.cell is not None
    if named and len(versions) == len(baseline) == 1:  # a pair, whatever their names
        by_cell = {versions[0].cell: baseline[0]}
    sides = [version_side(ledger, row) for row in versions]
    if all(side.evidence is None for side in sides):
        raise RegistryError(
            f"{sides[0].name} has no evidence to report: {sides[0].problem}",
            fix="run phipack release again, which measures and registers the evidence again",
        )
    registered, notes = reader.versions(reference.model), ledger.notes(reference.model)
    cells = [
        replace(
            named_apart(cell_content(ledger, side, row, by_cell.get(row.cell), targets)),
            earlier=earlier_releases(ledger, registered, row.release, side.manifest, side.evidence),
            reason=noted(notes, row.release).reason,
        )
        for side, row in zip(sides, versions, strict=True)
    ]
    whole = reference.cell is None
    missing, outside = _not_shown(ledger, reference, versions) if whole else ((), ())
    unread = not baseline or all(cell.problem and cell.recorded is None for cell in cells)
    content = Content(
        title=str(reference),
        cells=cells,
        against="" if unread else _against_name(reference, against),
        missing=missing,
        outside=outside,
        gone=tuple(sorted(set(by_cell) - {row.cell for row in versions})) if whole else (),
        moves=tuple(ledger.moves(reference.model)),
        made=datetime.now(UTC),
        tool=tool(),
        links={row.cell: link for row in versions if (link := run_link(ledger.uri, row.run_id)).startswith("http")},
    )
    return page(content)


def with_pages(ledger: Ledger, entry: Registration, own: Targets, on_progress: Progress) -> Registration:
    """Return what is registered for a cell with its report, model card and charts; as it is where it is there already.

    `own`: targets that phipack does not bring. It is compared with nothing, with a notice, where what production has
    can't be read. Raises `RegistryError` and `StoreError` where MLflow or the bundle itself can't be.
    """
    rows = ledger.versions(entry.model)
    same = (entry.version, entry.cell, entry.evidence_digest)
    if any((row.release, row.cell, row.evidence) == same for row in rows):
        return entry
    found = ledger.in_channel(entry.model, PRODUCTION, entry.cell)
    before = next((row for row in found if row.release != entry.version), None)
    side = stored_side(ledger.store, entry.reference, entry.cell, entry.manifest, entry.evidence)
    cell = cell_content(ledger, side, None, before, {**load_targets(), **own})
    earlier = earlier_releases(ledger, rows, entry.version, entry.manifest, entry.evidence)
    cell = replace(cell, earlier=earlier, reason=ledger.noted(entry.model, entry.version).reason)
    if cell.problem:
        how = "with nothing" if cell.recorded is None else "by the recorded evidence alone"
        on_progress(Notice(f"{entry.reference}: its report compares it {how}: {cell.problem}"))
    against = "" if cell.before is None else cell.before.name
    content = Content(entry.reference, (cell,), against=against, made=datetime.now(UTC), tool=tool())
    drawn = drawings(cell)
    pages = {REPORT_NAME: html(content, [drawn]), CARD_NAME: model_card(cell).encode()}
    pages |= {f"charts/{name}.png": drawing.png() for name, drawing in drawn.items()}
    return replace(entry, description=description(cell, _REPORT_NOTE), pages=pages)


def cell_content(
    ledger: Ledger, side: Side, row: CellVersion | None, before: CellVersion | None, targets: Targets
) -> CellContent:
    """Return the content of one cell. `side`: the candidate, `row` how it is registered; `before`: the baseline.

    It is compared by the recorded evidence alone where the baseline, or what the two are compared by, can't be read.
    Raises `StoreError` where the candidate can't be.
    """
    candidate = _subject(side, side.cell or side.name, row, _measured(ledger.store, side), targets)
    if before is None:
        return CellContent(candidate)
    try:
        other = version_side(ledger, before)
        baseline = _subject(other, before.cell, before, _measured(ledger.store, other), targets)
    except PhipackError as error:
        return _by_evidence(candidate, ledger, before, f"{before.reference} can't be read: {error.problem}")
    try:
        difference = compare(other, side, read_tensors=False)
        prompts = _prompts(other, side) if difference.template else None
        layers = layer_changes(other, side)
        same = any(one.name == "tokenizer.json" for one in difference.files) and is_same_tokenizer(other, side)
    except PhipackError as error:  # a file of either
        problem = f"files of it and of {before.reference} can't be compared: {error.problem}"
        return _by_evidence(candidate, ledger, before, problem)
    return CellContent(candidate, baseline, difference, prompts=prompts, layers=layers, same_tokenizer=same)


def _by_evidence(candidate: Subject, ledger: Ledger, row: CellVersion, problem: str) -> CellContent:
    """Return a content that is compared by what MLflow has of the baseline, if it has evidence."""
    try:
        recorded = Recorded(row.reference, ledger.evidence(row), row, problem)
    except RegistryError:
        recorded = None
    return CellContent(candidate, problem=problem, recorded=recorded)


def _prompts(before: Side, after: Side) -> SamePrompts | None:
    """Return what both templates write; None where a side has none."""
    old, new = template_text(before), template_text(after)
    if old is None or new is None:
        return None
    return compare_prompts(Prompting(old, special_tokens(before)), Prompting(new, special_tokens(after)))


def page(content: Content) -> ReportPage:
    """Return the page of a content, and what it says in short."""
    cells = tuple(
        ReviewedCell(
            cell.candidate.cell,
            judged(cell).state,
            judged(cell).text,
            tuple((one.severity, one.text) for one in findings(cell)),
        )
        for cell in content.cells
    )
    whole = overall(content)
    return ReportPage(content.title, content.against, whole.state, f"{whole.word}: {whole.text}", cells, html(content))


def tool() -> str:
    """Return this program with its version."""
    return f"{PACKAGE} {installed_version(PACKAGE) or ''}".strip()


def _measured(store: Store, side: Side) -> tuple[Measurement, ...]:
    return read_measurements(store, side.manifest.digest)


def _subject(
    side: Side, cell: str, row: CellVersion | None, measurements: tuple[Measurement, ...], targets: Targets
) -> Subject:
    name = side.evidence.target if side.evidence is not None else None if row is None else row.target
    target = targets.get(name or "")
    tokens = token_texts(side)
    return Subject(side.name, cell, side.manifest, side.evidence, side.problem or "", measurements, row, target, tokens)


def _not_shown(
    ledger: Ledger, reference: Reference, versions: Sequence[CellVersion]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the planned cells that the versions do not have: those registered nowhere, and those registered."""
    releases = {row.release for row in versions}
    if len(releases) != 1:
        return (), ()
    (release,) = releases
    absent = set(ledger.noted(reference.model, release).cells) - {row.cell for row in versions}
    registered = {row.cell for row in ledger.versions(reference.model, release=release)} if absent else set()
    return tuple(sorted(absent - registered)), tuple(sorted(absent & registered))


def _baseline(
    reader: Reader, reference: Reference, against: Reference | None, versions: Sequence[CellVersion]
) -> list[CellVersion]:
    """Return what is compared with: `against`, else what production has that is not the candidate itself."""
    if against is not None:
        return resolve_in(reader, against)
    same = {(row.cell, row.release) for row in versions}
    found = reader.in_channel(reference.model, PRODUCTION, reference.cell)
    return [row for row in found if (row.cell, row.release) not in same]


def _against_name(reference: Reference, against: Reference | None) -> str:
    return f"{reference.model}:{PRODUCTION}" if against is None else str(against)
