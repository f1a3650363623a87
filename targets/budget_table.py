"""A cell's budget in TOML: `size = { at_most = "2.0GB" }`, `size = "fit"`, or `bits = 4.2`."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from targets.budget import FEWEST_BITS, MOST_BITS, SIZE_PATTERN, Budget
from targets.errors import RecipeError
from targets.toml_file import RefusedValueError

FIT = "fit"


def _sized(text: str | None) -> str | None:
    try:
        if text is not None:
            Budget.of_size(text)
    except RecipeError as error:
        raise RefusedValueError(error.problem, fix=error.fix) from error
    return text


class SizeTable(BaseModel):
    """How many bytes the files of a bundle may have together."""

    # `at_most` is None where "fit" stands in place of the table, which TOML itself can't write.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    at_most: Annotated[
        str | None,
        AfterValidator(_sized),
        Field(
            description="All files of the bundle but its manifest together: 2.0GB, 950MB or 1.9GiB.",
            json_schema_extra={"pattern": rf"^\s*{SIZE_PATTERN}\s*$"},
        ),
    ]


def _size(given: object) -> object:
    if given == FIT:
        return SizeTable(at_most=None)
    if isinstance(given, dict):
        return given
    example = given if isinstance(given, str) and given else "2.0GB"
    raise RefusedValueError(
        f"a size is a table or {FIT!r}, not {given!r}", fix=f'write size = {{ at_most = "{example}" }}, or size = "fit"'
    )


Size = Annotated[SizeTable, BeforeValidator(_size)]
Bits = Annotated[float, Field(ge=FEWEST_BITS, le=MOST_BITS)]


def stated_budget(size: SizeTable | None, bits: float | None) -> Budget | None:
    """Return the budget that a cell states; None where it has none. Raises `RefusedValueError` for two of them."""
    if size is not None and bits is not None:
        raise RefusedValueError("size and bits exclude one another", at=("bits",), fix="keep one of the two")
    if bits is not None:
        return Budget.of_bits(bits)
    if size is None:
        return None
    return Budget("fit") if size.at_most is None else Budget.of_size(size.at_most)
