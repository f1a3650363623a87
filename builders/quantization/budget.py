"""Which type each matrix gets, so that a model is as close to its checkpoint as a number of bytes allows.

A few matrices do most of the harm when they are rounded, and no property of their weights says which: what a matrix
costs is measured (`sensitivity.py`), as a divergence that adds up over matrices well enough to choose by. The choice
starts from each matrix's smallest type, and gives bytes to whoever saves most with each of them, until nothing that
still fits saves anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from targets.errors import RecipeError
from targets.storage.gguf import TYPES

# The divergence that a type causes, relative to Q4_0's. Of SmolLM2-135M with its own grid blurred, measured once with
# all matrices but the head in one type; good for ranking, not for predicting.
RELATIVE_COST: Mapping[str, float] = {
    "Q4_0": 1.0,
    "IQ4_NL": 0.485,
    "Q4_K": 0.434,
    "Q5_0": 0.158,
    "Q5_1": 0.12,
    "Q6_K": 0.03,
    "Q8_0": 0.0025,
}


@dataclass(frozen=True)
class Option:
    """One way to store a matrix: its type, its bytes, and the divergence that it causes, in nats."""

    storage: str
    bytes: int
    cost: float


@dataclass(frozen=True)
class ChosenMatrix:
    """A matrix of the checkpoint: how it is stored, in how many bytes, and the divergence that it causes, in nats.

    `sensitivity`: what it causes in the format's 4-bit blocks, measured; `cost`: an estimate for its storage.
    """

    name: str
    storage: str
    bytes: int
    sensitivity: float
    cost: float


@dataclass(frozen=True)
class Choice:
    """What was chosen for a budget: each matrix, in the checkpoint's order.

    `bytes`: of all files of the bundle together but manifest.json, predicted.
    """

    matrices: tuple[ChosenMatrix, ...]
    bytes: int

    @property
    def types(self) -> tuple[tuple[str, str], ...]:
        """The storage of each matrix by its name, as `Recipe.types` has it."""
        return tuple((matrix.name, matrix.storage) for matrix in self.matrices)


def gguf_options(shape: tuple[int, ...], sensitivity: float, types: Iterable[str] = RELATIVE_COST) -> list[Option]:
    """Return the ways to store a matrix [rows, columns] whose divergence in Q4_0 is known.

    `types`: those that are considered; those whose blocks don't divide a row are left out.
    """
    rows, columns = shape
    kinds = [TYPES[name] for name in types if columns % TYPES[name].length == 0]
    return [
        Option(kind.name, rows * columns // kind.length * kind.bytes, sensitivity * RELATIVE_COST[kind.name])
        for kind in kinds
    ]


def choose(options: Mapping[str, Sequence[Option]], at_most: int) -> dict[str, Option]:
    """Choose an option for each matrix: together at most so many bytes, at a low cost.

    No single change that still fits lowers the cost of what is returned. The same options give the same choice.

    Raises:
        RecipeError: the smallest options together are larger, or the best ones smaller, than the budget.
    """
    chosen = {name: min(each, key=lambda one: (one.bytes, one.cost)) for name, each in options.items()}
    best = sum(min(each, key=lambda one: (one.cost, one.bytes)).bytes for each in options.values())
    total = sum(option.bytes for option in chosen.values())
    if not total <= at_most <= best:
        raise RecipeError(
            f"a budget of {at_most:,} bytes for the matrices: stored as small as possible they have {total:,}, and as "
            f"closely as possible {best:,}",
            fix=f"allow between {total:,} and {best:,} bytes",
        )
    while (change := _best_change(options, chosen, at_most - total)) is not None:
        name, option = change
        total += option.bytes - chosen[name].bytes
        chosen[name] = option
    return chosen


def _best_change(
    options: Mapping[str, Sequence[Option]], chosen: Mapping[str, Option], room: int
) -> tuple[str, Option] | None:
    """Return the change that saves most for each byte, of those that fit; None where none saves anything."""
    best, found = 0.0, None
    for name, each in options.items():
        now = chosen[name]
        for option in each:
            added = option.bytes - now.bytes
            saved = now.cost - option.cost
            if saved > 0 and added <= room and (worth := saved / max(added, 1)) > best:
                best, found = worth, (name, option)
    return found
