"""Sound checkpoints and bundles for all files: most are looked at in several of them."""

from __future__ import annotations

import pytest

from tests.support.mutants import Nursery


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Nursery:
    """Makes each when it is first asked for. Don't change them."""
    return Nursery(tmp_path_factory.mktemp("nursery"))
