"""The efficiency of a runtime on a chip, from observations of these and of others, with an interval.

The logarithm of an efficiency is taken as a sum of independent normal terms:

    log e = log .5 + all + runtime + chip + (chip, runtime) + scatter
            s.d.     .5    .2        .1     .2                .15

So two figures agree the more they share. A chip whose runtime was measured there is predicted near its own figures; one
with no figure near the mean of the runtime; a runtime with no figure near the mean of all: each mean is shrunk towards
the next by what its number of figures and these spreads say (best linear unbiased prediction, as in Gaussian-process
regression; Rasmussen and Williams, Gaussian Processes for Machine Learning, equations 2.25, 2.26 and 5.12). A runtime
stands for its format, too: each loads one.

The spreads are those of a coarse grid with about the largest marginal likelihood of published.toml
(tests/targets/test_speeds.py computes it again). The interval holds 80 % of the probability. The leave-one-out error is
how far a figure is off when it is predicted from all others: the root mean square over the figures of the runtime, or
of all where it has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from targets.speeds.observations import Observation

PRIOR_MEAN = math.log(0.5)
INTERVAL_SHARE = 0.8
_Z = 1.2815515655446004  # of a normal distribution: 80 % lie within
OBSERVATIONS_LIMIT = 100  # the time grows with the cube: the last ones count


@dataclass(frozen=True)
class Spreads:
    """Standard deviations of the terms of log e."""

    all: float = 0.5
    runtime: float = 0.2
    chip: float = 0.1
    pair: float = 0.2
    scatter: float = 0.15


SPREADS = Spreads()


@dataclass(frozen=True)
class Efficiency:
    """A predicted share of the bandwidth. `low` to `high` hold `INTERVAL_SHARE` of the probability.

    `leave_one_out_error`: a share of the value, from figures of the runtime (`of_runtime` of them) or, where there is
    none, of all. `of_pair`: figures of this runtime on this chip.
    """

    value: float
    low: float
    high: float
    leave_one_out_error: float
    of_runtime: int
    of_pair: int

    @property
    def basis(self) -> str:
        """Return what it was learned from, in words."""
        if self.of_pair:
            return f"learned from {_figures(self.of_pair)} of this chip and runtime"
        if self.of_runtime:
            return f"learned from {_figures(self.of_runtime)} of this runtime on other chips"
        return "learned from other runtimes"


def efficiency_of(observations: Sequence[Observation], soc: str, runtime: str) -> Efficiency:
    """Predict the efficiency of a runtime on a chip."""
    known = tuple(observations)[-OBSERVATIONS_LIMIT:]
    fitted = _fitted(known)
    near = [_covariance(one, soc, runtime, SPREADS) for one in known]
    mean = PRIOR_MEAN + sum(near_one * weight for near_one, weight in zip(near, fitted.weights, strict=True))
    explained = sum(x * x for x in _forward(fitted.factor, near))
    spread = math.sqrt(_own_variance(SPREADS) + SPREADS.scatter**2 - explained)
    certain = [place for place, one in enumerate(known) if not one.error]  # others are estimates
    of_runtime = [place for place in certain if known[place].runtime == runtime]
    errors = [fitted.left_out_errors[place] for place in of_runtime or certain]
    typical = math.sqrt(sum(error * error for error in errors) / len(errors)) if errors else spread
    return Efficiency(
        value=math.exp(mean),
        low=math.exp(mean - _Z * spread),
        high=math.exp(mean + _Z * spread),
        leave_one_out_error=math.expm1(typical),
        of_runtime=len(of_runtime),
        of_pair=sum(known[place].soc == soc for place in of_runtime),
    )


@dataclass(frozen=True)
class Fitted:
    """The observations' covariance K = L Lᵀ (`factor` is L), K⁻¹ (y - mean), and errors of each left out."""

    factor: list[list[float]]
    weights: list[float]
    left_out_errors: list[float]
    log_likelihood: float


def fit_observations(observations: Sequence[Observation], spreads: Spreads = SPREADS) -> Fitted:
    """Fit the model. `left_out_errors`: observed less predicted logarithm, with the observation itself left out."""
    centred = [math.log(one.efficiency) - PRIOR_MEAN for one in observations]
    matrix = [
        [
            _covariance(one, other.soc, other.runtime, spreads)
            + (spreads.scatter**2 + one.error**2 if row == column else 0.0)
            for column, other in enumerate(observations)
        ]
        for row, one in enumerate(observations)
    ]
    factor = _cholesky(matrix)
    weights = _backward(factor, _forward(factor, centred))
    errors = []
    for place in range(len(observations)):
        unit = [float(place == other) for other in range(len(observations))]
        errors.append(weights[place] / sum(x * x for x in _forward(factor, unit)))
    fit = -0.5 * sum(y * w for y, w in zip(centred, weights, strict=True))
    return Fitted(factor, weights, errors, fit - sum(math.log(row[place]) for place, row in enumerate(factor)))


@cache
def _fitted(observations: tuple[Observation, ...]) -> Fitted:
    return fit_observations(observations)


def _covariance(one: Observation, soc: str, runtime: str, spreads: Spreads) -> float:
    """Return the covariance of an observation's efficiency, without its scatter, and that of a runtime on a chip."""
    same_chip, same_runtime = one.soc == soc, one.runtime == runtime
    shared = spreads.all**2 + same_chip * spreads.chip**2 + same_runtime * spreads.runtime**2
    return shared + (same_chip and same_runtime) * spreads.pair**2


def _own_variance(spreads: Spreads) -> float:
    return spreads.all**2 + spreads.chip**2 + spreads.runtime**2 + spreads.pair**2


def _cholesky(matrix: list[list[float]]) -> list[list[float]]:
    factor: list[list[float]] = []
    for row, values in enumerate(matrix):
        line: list[float] = []
        for column in range(row):
            rest = values[column] - sum(x * y for x, y in zip(line, factor[column], strict=False))
            line.append(rest / factor[column][column])
        line.append(math.sqrt(values[row] - sum(x * x for x in line)))
        factor.append(line)
    return factor


def _forward(factor: list[list[float]], values: Sequence[float]) -> list[float]:
    """Solve L x = values."""
    found: list[float] = []
    for line, value in zip(factor, values, strict=True):
        found.append((value - sum(x * y for x, y in zip(line, found, strict=False))) / line[-1])
    return found


def _backward(factor: list[list[float]], values: Sequence[float]) -> list[float]:
    """Solve Lᵀ x = values."""
    found = [0.0] * len(values)
    for row in reversed(range(len(values))):
        above = sum(factor[below][row] * found[below] for below in range(row + 1, len(values)))
        found[row] = (values[row] - above) / factor[row][row]
    return found


def _figures(count: int) -> str:
    return f"{count} figure" + ("" if count == 1 else "s")
