"""Forms of `evidence import`."""

from __future__ import annotations

from pydantic import Field

from phipack.json_form.form import Form
from targets.measurement import Measurement


class ImportedForm(Form):
    """Measurements that were read."""

    bundle: str | None = Field(description="digest of the bundle that they were added to; null where none was named")
    added: int = Field(description="how many of them the store did not have yet; 0 where none was named")
    measurements: list[Measurement]
