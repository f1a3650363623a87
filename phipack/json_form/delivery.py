"""Forms of `fetch`, `split`, `join` and `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from phipack.json_form.form import Form
from phipack.json_form.making import BundleForm, bundle_form
from registry.bundle.parts import Part
from registry.fetch import Fetched


class FetchForm(BundleForm):
    """A bundle that was put in place, and where its bytes came from."""

    reference: str | None = Field(description="MODEL:VERSION@CELL; null for a path or the URL of a bundle")
    reasons: list[str] = Field(description="why the catalog's choice is this bundle")
    downloaded_bytes: int
    reused_bytes: int = Field(description="copied from bundles on this machine")
    delta_bytes: int = Field(description="made from such a bundle by a delta")
    resumed_bytes: int = Field(description="kept from an earlier try")


class PartForm(Form):
    """A part of a bundle."""

    path: str
    size_bytes: int


class SplitForm(Form):
    """A bundle in parts."""

    path: str
    parts: list[PartForm]


class GenerateForm(Form):
    """An answer."""

    text: str


def fetch_form(fetched: Fetched) -> FetchForm:
    """Describe a fetched bundle."""
    statistics = fetched.statistics
    return FetchForm(
        **bundle_form(fetched.bundle).model_dump(),
        reference=fetched.reference,
        reasons=list(fetched.reasons),
        downloaded_bytes=statistics.downloaded_bytes,
        reused_bytes=statistics.reused_bytes,
        delta_bytes=statistics.delta_bytes,
        resumed_bytes=statistics.resumed_bytes,
    )


def split_form(out: Path, parts: Sequence[Part]) -> SplitForm:
    """Describe parts."""
    return SplitForm(path=str(out), parts=[PartForm(path=str(part.path), size_bytes=part.bytes) for part in parts])


def generate_form(text: str) -> GenerateForm:
    """Describe an answer."""
    return GenerateForm(text=text)
