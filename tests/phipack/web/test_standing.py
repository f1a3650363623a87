"""A channel in the registry next to what is published: the sentence that compares the two."""

from __future__ import annotations

from dataclasses import replace

import phipack
from phipack.web.standing import standings
from registry.catalog.published_state import read_published
from tests.support.catalog_pages import MODEL


def test_what_most_phones_get_is_not_called_unpublished(shown: phipack.Registry) -> None:
    """1.1.0 is out for 10 %, and production was rolled back to 1.0.0, which the others have."""
    rows = [
        replace(row, channels=("production",) if str(row.release) == "1.0.0" else ()) for row in shown.versions(MODEL)
    ]
    found = standings(MODEL, "production", rows, read_published(shown.store, None))
    assert {one.state for one in found} == {"differs"}
    assert {one.text for one in found} == {
        "1.0.0 is out for some of the phones only: phones get 1.1.0 to 10 %, 1.0.0 to the others"
    }
