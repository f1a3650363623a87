"""A report's content from sample evidence."""

from __future__ import annotations

import pytest

from builders.report.content import CellContent
from tests.support.report_samples import compared, of_other_checkpoint


@pytest.fixture(scope="session")
def cell(tmp_path_factory: pytest.TempPathFactory) -> CellContent:
    """A cell with everything measured, next to what production has."""
    return compared(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def other_checkpoint(cell: CellContent) -> CellContent:
    """The same, where production was made from another checkpoint, which float32 answers better from in places."""
    return of_other_checkpoint(cell)
