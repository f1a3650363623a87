"""`report`: a page that a reviewer decides from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack import completion
from phipack.commands.opening import open_registry
from phipack.options import FILE, State, pass_state
from targets.formatting import size

if TYPE_CHECKING:
    from phipack.api.results import ReportPage


@click.command()
@click.argument("reference", metavar="REFERENCE-OR-PATH", shell_complete=completion.references_or_paths)
@click.option(
    "--against",
    metavar="REFERENCE",
    shell_complete=completion.references,
    help="What it is compared with, cell by cell.  [default: what the channel production has]",
)
@click.option("--evidence", type=FILE, metavar="FILE", help="Of a bundle's folder: what phipack validate wrote.")
@click.option("-o", "--out", type=FILE, metavar="FILE", required=True, help="The page to write, such as report.html.")
@pass_state
def report(state: State, reference: str, against: str | None, evidence: Path | None, out: Path) -> None:
    """Write a page that shows all evidence of a release, from which a reviewer can decide on its promotion.

    Verdict and gates, what to look at first, accuracy by text and position, checks, tasks, safety, answers, speed, size
    and origin, next to what production has. The page is one file without scripts: it opens from a mail, in print, on a
    phone. REFERENCE-OR-PATH is MODEL[:VERSION|:CHANNEL|:^RANGE][@CELL], or a bundle's folder with --evidence.

    Exits with 0 whatever the verdict is: gates are enforced by promote.
    """
    from phipack.json_form.reporting import report_form
    from registry.fetch import is_path
    from registry.files.output_file import check_output_file, write_output_file

    if is_path(reference) != (evidence is not None):
        raise click.UsageError("a bundle's folder needs --evidence FILE, and a reference takes none")
    if evidence is not None and against is not None:
        raise click.UsageError("--against compares what is registered: name a reference in place of the folder")
    check_output_file(out)
    if evidence is not None:
        from phipack.api.reporting import report_bundle

        page = report_bundle(reference, evidence)
    else:
        page = open_registry(state).report(reference, against=against)
    write_output_file(out, page.html)
    state.output.result(report_form(page, out).data(), _text(page, out))


def _text(page: ReportPage, out: Path) -> str:
    lines = [f"{page.title}: {page.verdict}", *(f"{one.cell}: {one.verdict}" for one in page.cells)]
    compared = f"compared with {page.against}" if page.against else "compared with nothing"
    return "\n".join([*lines, f"{out}: {size(len(page.html))}, {compared}"])
