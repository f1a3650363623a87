"""A report's content from sample evidence."""

from __future__ import annotations

import pytest

from builders.report.content import CellContent
from tests.support.report_samples import compared


@pytest.fixture(scope="session")
def cell(tmp_path_factory: pytest.TempPathFactory) -> CellContent:
    """A cell with everything measured, next to what production has."""
    return compared(tmp_path_factory.mktemp("bundles"))
