"""Which text a gate reads, and which one it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders.report.content import CellContent, Content, Earlier, Subject
from builders.report.findings import findings
from builders.report.gate_rows import gate_rows
from builders.report.page import html
from builders.report.usual import usual
from tests.support.parsed_html import parsed
from tests.support.report_samples import details


def test_a_gate_says_what_it_reads_and_which_text_is_worst(cell: CellContent) -> None:
    rows = {row.gate.figure: row for row in gate_rows(cell.candidate.evidence)}
    assert (rows["kl_mean"].read_on, rows["kl_mean"].worst) == ("5 texts", "chinese 0.049 nat")
    assert rows["same_top_share"].worst == "chinese 91.10 %"
    assert rows["predicted_memory_bytes"].worst == "\N{EN DASH}"
    page = parsed(html(Content("phi:1.1.0", (cell,)))).text
    assert "5 textschinese 0.049 nat" in page.replace(" \n", "").replace("\n", "")


@pytest.mark.parametrize(("error", "severity"), [(0.001, "look"), (0.02, None)], ids=["certain", "chance"])
def test_a_text_outside_the_bound_of_a_gate_that_passes_is_to_be_judged(
    cell: CellContent, error: float, severity: str | None
) -> None:
    found = replace(cell, candidate=_with_text(cell.candidate, kl_mean=0.06, kl_standard_error=error))
    (row,) = [row for row in gate_rows(found.candidate.evidence) if row.gate.figure == "kl_mean"]
    assert row.outside == ("german 0.06 nat",)
    said = [one for one in findings(found) if "single texts are outside" in one.text]
    assert [one.severity for one in said] == ([severity] if severity else [])
    if said:
        assert said[0].text.endswith("kl_mean, <= 0.05 nat, reads 5 texts: german 0.06 nat.")


def test_what_production_has_outside_as_well_is_a_note(cell: CellContent) -> None:
    assert cell.baseline is not None
    new, old = (_with_text(side, kl_mean=0.06, kl_standard_error=0.001) for side in (cell.candidate, cell.baseline))
    (one,) = [one for one in findings(replace(cell, candidate=new, baseline=old)) if "single texts" in one.text]
    assert (one.severity, one.text.endswith(f"{old.name} has as many outside.")) == ("note", True)


def test_what_is_usual_for_a_recipe_is_what_was_registered_or_said_not_to_be(cell: CellContent) -> None:
    recipe = cell.candidate.manifest.recipe.name
    of_production = usual(cell)
    assert of_production == f"Other releases with {recipe}, same text: 0.021 nat in phi:1.0.0@iphone-15."
    assert usual(replace(cell, baseline=None)) == ""  # nobody has looked
    alone = usual(replace(cell, baseline=None, earlier=()))
    assert alone.startswith(f"No other release of this model with {recipe} is registered")
    many = tuple(Earlier(f"phi:0.{number}.0@iphone-15", 0.02 + number / 1000) for number in range(5))
    assert usual(replace(cell, earlier=many)) == f"6 other releases with {recipe}, same text: 0.02 nat to 0.024 nat."
    page = parsed(html(Content("phi:1.1.0", (cell,)))).text
    assert of_production in page


def _with_text(side: Subject, **changes: Any) -> Subject:
    assert side.evidence is not None
    texts = tuple(one.model_copy(update=changes) if one.text == "german" else one for one in details().texts)
    return replace(side, evidence=side.evidence.model_copy(update={"details": details(texts=texts)}))
