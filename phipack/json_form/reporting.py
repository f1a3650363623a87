"""Form of `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from phipack.api.results import ReportPage
from phipack.json_form.form import Form


class FindingForm(Form):
    """One thing to look at."""

    severity: Literal["fail", "defect", "look", "note"] = Field(
        description="a gate or check fails; nothing that was changed explains it; somebody has to judge it; information"
    )
    text: str


class ReviewedCellForm(Form):
    """What the report says of one cell."""

    cell: str
    state: Literal["pass", "warn", "fail"] = Field(
        description="warn: its gates pass, and checks fail or a finding is a defect or to be judged"
    )
    verdict: str
    findings: list[FindingForm] = Field(description="the worst first")


class ReportForm(Form):
    """A report that was written."""

    path: str
    bytes: int
    title: str
    against: str | None = Field(description="what it compares with; null: nothing")
    state: Literal["pass", "warn", "fail"]
    verdict: str
    cells: list[ReviewedCellForm]


def report_form(page: ReportPage, path: Path) -> ReportForm:
    """Describe a report that was written to `path`."""
    return ReportForm.model_validate(
        {
            "path": str(path),
            "bytes": len(page.html),
            "title": page.title,
            "against": page.against or None,
            "state": page.state,
            "verdict": page.verdict,
            "cells": [
                {
                    "cell": cell.cell,
                    "state": cell.state,
                    "verdict": cell.verdict,
                    "findings": [{"severity": severity, "text": text} for severity, text in cell.findings],
                }
                for cell in page.cells
            ],
        }
    )
