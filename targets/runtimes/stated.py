"""The table of runtimes in a TOML file: a version for each. Every runtime must be one that bundles need."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from targets.errors import TargetError
from targets.runtimes.offer import Offer
from targets.toml_file import RefusedValueError


def _readable(versions: dict[str, str]) -> dict[str, str]:
    for name, version in versions.items():
        try:
            Offer.of({name: version})
        except TargetError as error:
            raise RefusedValueError(error.problem, at=(name,), fix=error.fix) from error
    return versions


RuntimeTable = Annotated[dict[str, str], AfterValidator(_readable)]
