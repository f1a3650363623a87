"""Which type each matrix gets, so that a model is as close to its checkpoint as a number of bytes allows.

A few matrices do most of the harm when they are rounded, and no property of their weights says which: what a matrix
costs is measured (`sensitivity.py`), as a divergence that adds up over matrices well enough to choose by. The choice
starts from each matrix's smallest type, and gives bytes to whoever saves most with each of them, until nothing that
still fits saves anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from targets.errors import RecipeError
from targets.storage import Candidate

# The divergence that a type causes, relative to that of the format's 4-bit blocks of 32 (Q4_0; uint4 with zero points).
# Of SmolLM2-135M with its own grid blurred and rounding that minds the importance of columns: with all matrices but the
# head in one type, where its blocks divide 576, over 512 tokens; of others (Q3_K, IQ4_XS, Q4_K, Q5_K, Q6_K, blocks of
# 128, uint8) by the error of down_proj's outputs, relative to that of types which were measured so. Good for ranking.
RELATIVE_COST: Mapping[str, float] = {
    "Q3_K": 2.8,
    "Q4_0": 1.0,
    "IQ4_XS": 0.58,
    "IQ4_NL": 0.567,
    "Q4_K": 0.466,
    "Q5_0": 0.257,
    "Q5_K": 0.147,
    "Q5_1": 0.141,
    "Q6_K": 0.042,
    "Q8_0": 0.0069,
    "F16": 0.0,
    "uint4 block 128": 1.99,
    "uint4 block 64": 1.54,
    "uint4 block 32": 1.0,
    "uint4 block 16": 0.708,
    "int8 block 128": 0.0178,
    "int8 block 64": 0.0146,
    "int8 block 32": 0.0099,
    "uint8 block 128": 0.009,
    "uint8 block 64": 0.007,
    "uint8 block 32": 0.0052,
    "table of 8 block 64": 4.94,
    "table of 8 block 32": 3.51,
    "table of 16 block 64": 1.12,
    "table of 16 block 32": 0.843,
    "table of 16 block 16": 0.709,
    "float16": 0.0,
}
# In nats. What lies on the grid of the 4-bit blocks already, as weights made from such a file do, causes no divergence
# there; smaller types are not free for it all the same, and its bytes are spent by the cost of types alone.
LEAST_SENSITIVITY = 1e-9
VALUE_SHARE = 0.8  # of the divergence that qkv_proj causes, the part of its value rows; measured on the same model


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


def cost_of(candidate: Candidate, sensitivity: float) -> float:
    """Return an estimate of the divergence, in nats, of a matrix whose sensitivity is known (`sensitivity.py`)."""
    first, *values = (RELATIVE_COST[kind] for kind in candidate.types)
    least = max(sensitivity, LEAST_SENSITIVITY)
    return least * (first if not values else first * (1 - VALUE_SHARE) + values[0] * VALUE_SHARE)


def smallest(options: Mapping[str, Sequence[Option]]) -> dict[str, Option]:
    """Return the option with the fewest bytes of each matrix."""
    return {name: min(each, key=lambda one: (one.bytes, one.cost)) for name, each in options.items()}


def best(options: Mapping[str, Sequence[Option]]) -> dict[str, Option]:
    """Return the option with the least cost of each matrix."""
    return {name: min(each, key=lambda one: (one.cost, one.bytes)) for name, each in options.items()}


def choose(options: Mapping[str, Sequence[Option]], at_most: int) -> dict[str, Option]:
    """Choose an option for each matrix: together at most so many bytes, at a low cost.

    No single change that still fits lowers the cost of what is returned. The same options give the same choice.

    Raises:
        RecipeError: the smallest options together are larger, or the best ones smaller, than the budget.
    """
    chosen, closest = smallest(options), sum(option.bytes for option in best(options).values())
    total = sum(option.bytes for option in chosen.values())
    if not total <= at_most <= closest:
        raise RecipeError(
            f"a budget of {at_most:,} bytes for the matrices: stored as small as possible they have {total:,}, and as "
            f"closely as possible {closest:,}",
            fix=f"allow between {total:,} and {closest:,} bytes",
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
    most, found = 0.0, None
    for name, each in options.items():
        now = chosen[name]
        for option in each:
            added = option.bytes - now.bytes
            saved = now.cost - option.cost
            if saved > 0 and added <= room and (worth := saved / max(added, 1)) > most:
                most, found = worth, (name, option)
    return found
