"""The types of a recipe with a budget: from measured sensitivities to the largest bundle that the budget allows.

    sensitivities (quantization/sensitivity_cache.py)
    candidates and their bytes (targets/storage/candidates.py)  ──>  types, and the exact size of the bundle (sizes.py)

A file has more than its matrices' data: padding, metadata, a graph whose size depends a little on what is chosen. So
the choice is made for the room that the rest leaves, the bundle's size is predicted, and the room is corrected by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from builders.conversion import BuildRequest
from builders.quantization.budget import Choice, ChosenMatrix, Option, best, choose, cost_of, smallest
from builders.sizes import bundle_sizes
from targets.budget import Budget
from targets.budget_fit import require_possible
from targets.storage.candidates import candidates_of
from targets.storage.plans import plan_of

_ROUNDS = 10  # of corrections; two or three are usual
_SPREAD = 1024  # bytes; by more than this a type changes nothing but the matrices' data
_DIGITS = 4  # of a cost, as of sensitivities

Types = tuple[tuple[str, str], ...]
Chosen = dict[str, Option]


def with_chosen_types(request: BuildRequest, sensitivities: Mapping[str, float]) -> BuildRequest:
    """Return a request with the types that its recipe's budget allows, and why they were chosen.

    Args:
        request: of a recipe with a budget in bytes or bits.
        sensitivities: of each matrix, in nats, by canonical name.

    Raises:
        RecipeError: the smallest choice is larger, or the largest one smaller, than the budget.
        CheckpointError: the tokenizer is damaged. UnsupportedModelError: the recipe can't build the checkpoint.
    """
    sizing = _Sizing(request)
    types = _types(_fitted(sizing.options(sensitivities), sizing))
    total = sizing.total(types)
    if total > sizing.limit or (total < sizing.limit and types == sizing.closest):
        require_possible(sizing.architecture, request.recipe, *sizing.ends())
    recipe = replace(request.recipe, types=types)
    stored = dict(types)
    matrices = tuple(
        ChosenMatrix(name, one.storage, one.bytes, sensitivities[name], _rounded(cost_of(one, sensitivities[name])))
        for name, each in sizing.candidates.items()
        for one in each
        if one.storage == stored[name]
    )
    return replace(request, recipe=recipe, choice=Choice(matrices, sizing.bundle_bytes(types)))


def require_reachable(request: BuildRequest) -> None:
    """Check that a budget can be met, before anything is measured. No weight is read. Raises as `with_chosen_types`."""
    require_possible(request.checkpoint.architecture, request.recipe, *budget_ends(request))


def budget_ends(request: BuildRequest) -> tuple[int, int]:
    """Return the least and the most that a budget may ask for, of the recipe's candidates.

    In bytes of the bundle without its manifest; of the weights alone where the budget is in bits. No weight is read.
    """
    return _Sizing(request).ends()


class _Sizing:
    """The sizes of a request's bundle with different types."""

    def __init__(self, request: BuildRequest) -> None:
        assert request.recipe.budget is not None
        self._request = request
        self.architecture = request.checkpoint.architecture
        self.budget: Budget = request.recipe.budget
        self.candidates = candidates_of(self.architecture, request.recipe)
        self._totals: dict[Types, int] = {}

    @property
    def limit(self) -> int:
        """The bytes that the budget allows: of the bundle, or of the weights where it is in bits."""
        return self.budget.allowed_bytes(self.architecture.parameter_count)

    def options(self, sensitivities: Mapping[str, float]) -> dict[str, list[Option]]:
        """Return the candidates of each matrix with their bytes, as the budget counts them, and costs."""
        in_file = self.budget.kind == "bytes"
        return {
            name: [
                Option(one.storage, one.file_bytes if in_file else one.bytes, cost_of(one, sensitivities[name]))
                for one in each
            ]
            for name, each in self.candidates.items()
        }

    def ends(self) -> tuple[int, int]:
        """Return the bytes, as the budget counts them, with the smallest and with the closest types."""
        options = self.options(dict.fromkeys(self.candidates, 1.0))
        return self.total(_types(smallest(options))), self.total(self.closest)

    @property
    def closest(self) -> Types:
        """The types of the least cost, whatever the sensitivities are."""
        return _types(best(self.options(dict.fromkeys(self.candidates, 1.0))))

    def total(self, types: Types) -> int:
        """Return the bytes, as the budget counts them, with these types."""
        if self.budget.kind == "bits":
            recipe = replace(self._request.recipe, types=types)
            return sum(weight.bytes for weight in plan_of(self.architecture, recipe))
        return self.bundle_bytes(types)

    def bundle_bytes(self, types: Types) -> int:
        """Return the bytes of all files of the bundle but its manifest."""
        if types not in self._totals:
            recipe = replace(self._request.recipe, types=types)
            self._totals[types] = sum(bundle_sizes(replace(self._request, recipe=recipe)).values())
        return self._totals[types]


def _fitted(options: Mapping[str, list[Option]], sizing: _Sizing) -> Chosen:
    """Return a choice within the limit that no single change betters which is within it, too."""
    least, most = (_bytes(each(options)) for each in (smallest, best))
    chosen = found = smallest(options)
    for _ in range(_ROUNDS):
        rest = sizing.total(_types(chosen)) - _bytes(chosen)
        again = choose(options, min(max(sizing.limit - rest, least), most))
        if again == chosen:
            break
        chosen = again
        if sizing.total(_types(chosen)) <= sizing.limit and _cost(chosen) < _cost(found):
            found = chosen
    while (better := _bettered(found, options, sizing)) is not None:
        found = better
    return found


def _bettered(chosen: Chosen, options: Mapping[str, list[Option]], sizing: _Sizing) -> Chosen | None:
    """Return a choice with one change that saves something and is within the limit; None where there is none."""
    room = sizing.limit - sizing.total(_types(chosen))
    changes = [
        (now.cost - option.cost, name, option)
        for name, now in chosen.items()
        for option in options[name]
        if option.cost < now.cost and option.bytes - now.bytes <= room + _SPREAD
    ]
    for _, name, option in sorted(changes, key=lambda change: change[:2], reverse=True):
        changed = chosen | {name: option}
        if sizing.total(_types(changed)) <= sizing.limit:
            return changed
    return None


def _types(chosen: Mapping[str, Option]) -> Types:
    return tuple((name, option.storage) for name, option in chosen.items())


def _bytes(chosen: Mapping[str, Option]) -> int:
    return sum(option.bytes for option in chosen.values())


def _cost(chosen: Mapping[str, Option]) -> float:
    return math.fsum(option.cost for option in chosen.values())


def _rounded(cost: float) -> float:
    return float(f"{cost:.{_DIGITS}g}")
