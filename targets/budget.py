"""How large a bundle may become whose matrices get their types by measured sensitivity.

bytes    all files of the bundle together but manifest.json
bits     the mean over all weights, scales included, as llama.cpp counts bits per weight
fit      the largest that fits the target, with the context that is asked for
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from targets.errors import RecipeError

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SIZE_PATTERN = r"([0-9]{1,15}(?:\.[0-9]{1,12})?)\s*(B|kB|MB|GB|KiB|MiB|GiB)"
_SIZE = re.compile(SIZE_PATTERN)
FEWEST_BITS, MOST_BITS = 1.0, 16.0

BudgetKind = Literal["bytes", "bits", "fit"]


@dataclass(frozen=True)
class Budget:
    """A bound on a bundle. `amount`: bytes, or bits per weight; 0 for `fit`, which a target turns into bytes."""

    kind: BudgetKind
    amount: float = 0.0

    @classmethod
    def of_size(cls, text: str) -> Budget:
        """Parse a size such as `2.0GB`, decimal, or `1.9GiB`. Raises `RecipeError`."""
        found = _SIZE.fullmatch(text.strip())
        count = round(float(found[1]) * _UNITS[found[2]]) if found else 0
        if count < 1:
            raise RecipeError(f"{text!r} is not a size", fix="write a number and a unit: 2.0GB, 950MB or 1.9GiB")
        return cls("bytes", count)

    @classmethod
    def of_bits(cls, bits: float) -> Budget:
        """Return a budget of so many bits per weight. Raises `RecipeError` for what no recipe can store."""
        if not FEWEST_BITS <= bits <= MOST_BITS:
            raise RecipeError(
                f"{bits:g} bits per weight is outside of what recipes can store",
                fix=f"ask for {FEWEST_BITS:g} to {MOST_BITS:g} bits per weight: 4.5 is usual",
            )
        return cls("bits", float(bits))

    def allowed_bytes(self, parameters: int) -> int:
        """Return what it allows a model of so many parameters: for all files, or for bits for the weights alone.

        Raises `ValueError` for `fit`, before a target has turned it into bytes.
        """
        if self.kind == "fit":
            raise ValueError("a budget that fits a target is no number of bytes yet")
        return int(self.amount) if self.kind == "bytes" else int(parameters * self.amount / 8)

    @property
    def label(self) -> str:
        """Its short form, for manifests and tables: `at most 2000000000 B`, `4.2 bits`, `fit`."""
        if self.kind == "bytes":
            return f"at most {int(self.amount)} B"
        return f"{self.amount:g} bits" if self.kind == "bits" else "fit"

    @property
    def in_names(self) -> str:
        """Its form in names of jobs, which shells take without quotes: `2000000000B`, `4.2bits`, `fit`."""
        return self.label.removeprefix("at most ").replace(" ", "")
