"""What is learned from published speeds: against numpy, by what must hold, and with each figure left out."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.devices import load_targets
from targets.speeds import Observation, efficiency_of, published_observations
from targets.speeds.efficiency import OBSERVATIONS_LIMIT, PRIOR_MEAN, SPREADS, Spreads, fit_observations
from targets.speeds.observations import published_bandwidths

PUBLISHED = published_observations()
observations = st.lists(
    st.builds(
        Observation,
        soc=st.sampled_from(["a", "b", "c"]),
        runtime=st.sampled_from(["x", "y"]),
        efficiency=st.floats(0.01, 1.0),
        title=st.just(""),
        error=st.sampled_from([0.0, 0.4]),
    ),
    max_size=12,
)


def covariance(known: list[Observation], spreads: Spreads) -> np.ndarray:
    chips = np.equal.outer([one.soc for one in known], [one.soc for one in known])
    runtimes = np.equal.outer([one.runtime for one in known], [one.runtime for one in known])
    shared = spreads.all**2 + chips * spreads.chip**2 + runtimes * spreads.runtime**2
    return shared + (chips & runtimes) * spreads.pair**2


def noise(known: list[Observation], spreads: Spreads) -> np.ndarray:
    return np.diag([spreads.scatter**2 + one.error**2 for one in known])


@given(observations, st.sampled_from(["a", "z"]), st.sampled_from(["x", "z"]))
def test_prediction_is_that_of_numpy(known: list[Observation], soc: str, runtime: str) -> None:
    found = efficiency_of(known, soc, runtime)
    joint = covariance([*known, Observation(soc, runtime, 1.0, "")], SPREADS)
    inverse = np.linalg.inv(joint[:-1, :-1] + noise(known, SPREADS)) if known else np.zeros((0, 0))
    near = joint[-1, :-1]
    mean = PRIOR_MEAN + near @ inverse @ (np.log([one.efficiency for one in known]) - PRIOR_MEAN)
    spread = math.sqrt(joint[-1, -1] + SPREADS.scatter**2 - near @ inverse @ near)
    assert math.log(found.value) == pytest.approx(mean, abs=1e-9)
    assert math.log(found.high / found.low) == pytest.approx(2 * 1.2815515655 * spread, abs=1e-8)


@given(observations.filter(lambda known: len(known) > 1))
def test_leave_one_out_is_what_leaving_one_out_gives(known: list[Observation]) -> None:
    errors = fit_observations(known).left_out_errors
    for place, one in enumerate(known):
        others = known[:place] + known[place + 1 :]
        without = efficiency_of(others, one.soc, one.runtime).value
        assert math.log(one.efficiency / without) == pytest.approx(errors[place], abs=1e-8)


def test_the_interval_holds_what_it_says_of_the_published_speeds() -> None:
    """80 % of them, within what 21 figures can tell; each predicted from the others."""
    inside = 0
    for place, one in enumerate(PUBLISHED):
        found = efficiency_of(PUBLISHED[:place] + PUBLISHED[place + 1 :], one.soc, one.runtime)
        inside += found.low <= one.efficiency <= found.high
    assert len(PUBLISHED) == 21
    assert 14 <= inside <= 20
    errors = fit_observations(PUBLISHED).left_out_errors
    assert math.sqrt(sum(error**2 for error in errors) / len(errors)) == pytest.approx(0.22, abs=0.01)


def test_the_spreads_are_about_the_likeliest() -> None:
    """Of a coarse grid, for the published speeds: within one unit of the logarithm of the likelihood."""
    values = np.log([one.efficiency for one in PUBLISHED]) - PRIOR_MEAN
    known = list(PUBLISHED)
    likelihoods = {}
    grid = itertools.product((0.0, 0.1, 0.3), (0.1, 0.2, 0.4), (0.0, 0.2), (0.1, 0.15, 0.3))
    for chip, runtime, pair, scatter in grid:
        spreads = Spreads(chip=chip, runtime=runtime, pair=pair, scatter=scatter)
        matrix = covariance(known, spreads) + noise(known, spreads)
        likelihoods[spreads] = -0.5 * (values @ np.linalg.solve(matrix, values) + np.linalg.slogdet(matrix)[1])
    assert likelihoods[SPREADS] > max(likelihoods.values()) - 1
    assert fit_observations(PUBLISHED).log_likelihood == pytest.approx(likelihoods[SPREADS])


def test_what_is_left_out_is_named_and_would_change_the_picture() -> None:
    everything = published_observations(all_of_them=True)
    left_out = [one for one in everything if one not in PUBLISHED]
    assert {one.soc for one in left_out} == {"Snapdragon X Elite"}
    errors = fit_observations(everything).left_out_errors
    assert math.sqrt(sum(error**2 for error in errors) / len(errors)) > 0.3  # on phones and tablets: 0.22


def test_figures_of_the_chip_and_runtime_narrow_the_interval() -> None:
    before = efficiency_of(PUBLISHED, "Apple A17 Pro", "Core ML")
    own = Observation("Apple A17 Pro", "Core ML", 0.6, "mine")
    after = efficiency_of((*PUBLISHED, own), "Apple A17 Pro", "Core ML")
    assert before.value < after.value < 0.6
    assert after.high / after.low < before.high / before.low
    assert (before.of_pair, before.of_runtime, after.of_pair, after.of_runtime) == (0, 2, 1, 3)
    doubtful = efficiency_of((*PUBLISHED, replace(own, error=0.4)), "Apple A17 Pro", "Core ML")
    assert before.value < doubtful.value < after.value


def test_what_a_prediction_is_learned_from_is_said() -> None:
    assert efficiency_of(PUBLISHED, "Apple A16", "Core ML").basis == "learned from 1 figure of this chip and runtime"
    other = efficiency_of(PUBLISHED, "Tensor G5", "llama.cpp")
    assert other.basis == "learned from 3 figures of this runtime on other chips"
    assert efficiency_of(PUBLISHED, "Tensor G5", "onnxruntime").basis == "learned from other runtimes"
    assert efficiency_of((), "a", "b").value == pytest.approx(0.5)


def test_many_figures_take_no_long_time() -> None:
    many = tuple(Observation(f"chip {number % 7}", "x", 0.5, "") for number in range(OBSERVATIONS_LIMIT + 100))
    assert efficiency_of(many, "chip 1", "x") == efficiency_of(many[-OBSERVATIONS_LIMIT:], "chip 1", "x")


def test_bandwidths_are_those_of_the_targets() -> None:
    known = published_bandwidths()
    shared = [target for target in load_targets().values() if target.soc in known]
    assert len(shared) >= 4
    for target in shared:
        assert known[target.soc] == target.memory_bandwidth.value, target.name


@pytest.mark.parametrize(
    ("title", "bytes_per_token"),
    [
        ("phi-3-mini", (3_821_079_552 - 32_064 * 3_072) / 2),
        ("Llama-3.2-3B, SpinQuant", 2435 * 2**20 - 128_256 * 3_072),
        ("Llama-3-8B, 4 bits", 7.505e9 * 4.25 / 8),
        ("llama 7B, Q4_0", 3.83 * 2**30 - 32_000 * 4_096 * 18 / 32),
        ("llama 3.1 8B, Q4_K_M", 4.58 * 2**30 - 128_256 * 4_096 * 144 / 256),
    ],
)
def test_bytes_per_token_follow_from_their_basis(title: str, bytes_per_token: float) -> None:
    from targets.speeds.observations import _published

    found = next(speed for speed in _published().speeds if speed.model.startswith(title))
    assert found.bytes_per_token == pytest.approx(bytes_per_token, rel=1e-4)
