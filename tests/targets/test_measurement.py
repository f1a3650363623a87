"""Measurements: the document round-trips, and refuses what does not fit together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.errors import MeasurementError
from targets.evidence import FIGURES
from targets.measurement import BYTES_LIMIT, DEVICE_FIGURES, Measurement, SampledFigure

BUNDLE = "sha256:" + "a" * 64
positive = st.floats(min_value=1e-6, max_value=1e12)
sampled = st.dictionaries(st.sampled_from(sorted(DEVICE_FIGURES)), st.lists(positive, min_size=1, max_size=5))


def document(**changes: Any) -> dict[str, Any]:
    known = {
        "schema": "phipack.measurement/1",
        "match": "digest",
        "bundle": BUNDLE,
        "device": {"model": "SM-S921U", "os": "Android", "os_version": "15"},
        "runtime": {"name": "llama.cpp", "version": "b6500", "backend": "CPU"},
        "settings": {"prompt_tokens": 512, "threads": 4},
        "figures": {},
        "temperature_before_celsius": 31.0,
        "temperature_after_celsius": 38.24,
        "throttled": False,
        "source": "adb",
        "tool": "llama-bench",
        "taken": "2026-11-26T07:30:00Z",
    }
    return known | changes


def parsed(**changes: Any) -> Measurement:
    return Measurement.parse(json.dumps(document(**changes)).encode(), source="m.json")


def decode(*samples: float, **changes: Any) -> dict[str, Any]:
    figure = SampledFigure.median("device_decode_tokens_per_second", samples)
    return {"device_decode_tokens_per_second": figure.model_dump() | changes}


@given(sampled)
def test_a_measurement_round_trips_through_json(runs: dict[str, list[float]]) -> None:
    taken = {name: SampledFigure.median(name, samples) for name, samples in runs.items()}
    before = Measurement(**document(figures=taken))
    text = before.to_json()
    after = Measurement.parse(text.encode(), source="m.json")
    assert after == before
    assert after.to_json() == text
    assert set(after.as_figures()) == set(runs)


def test_figures_say_what_they_were_measured_on() -> None:
    figures = parsed(figures=decode(12.0, 10.0, 11.5)).as_figures()
    figure = figures["device_decode_tokens_per_second"]
    assert (figure.value, figure.unit, figure.kind) == (11.5, "token/s", "measured")
    assert figure.on == "SM-S921U, Android 15, llama.cpp b6500 CPU, 31.0 to 38.2 °C"
    unknown = parsed(temperature_before_celsius=None, temperature_after_celsius=None)
    assert unknown.on.endswith("temperature not known")


def test_the_median_and_the_spread_of_repeats() -> None:
    figure = SampledFigure.median("device_decode_tokens_per_second", [10.0, 12.0, 11.0])
    assert (figure.value, figure.spread) == (11.0, pytest.approx(2 / 11))
    assert SampledFigure.median("device_decode_tokens_per_second", [10.0]).spread is None
    assert SampledFigure.maximum("device_peak_memory_bytes", [1.0, 3.0, 2.0]).value == 3.0


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"figures": decode(10.0, 11.0, 12.0, value=12.0)}, "the median of the samples is 11.0, not 12.0"),
        ({"figures": decode(10.0, unit="token")}, "is in token/s, not in token"),
        ({"figures": {"kl_mean": decode(1.0).popitem()[1]}}, "kl_mean is no figure of a device"),
        ({"not_measured": {"speed": "x"}}, "speed is no figure of a device"),
        (
            {"figures": decode(1.0), "not_measured": {"device_decode_tokens_per_second": "spread"}},
            "is in figures and in not_measured",
        ),
        ({"match": "claim"}, "a claim has its text in claim"),
        ({"claim": "it is"}, "a claim has its text in claim"),
        ({"bundle": None}, "matched by digest, but bundle is null"),
        ({"bundle": "sha256:" + "A" * 64}, "bundle"),
        ({"throttled": "no"}, "throttled"),
        ({"taken": "2026-11-26T07:30:00"}, "taken"),
        ({"serial": "R3CW"}, "serial: Extra inputs"),
        ({"schema": "phipack.measurement/2"}, "schema"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(MeasurementError, match=r"m\.json: not a measurement: ") as caught:
        parsed(**changes)
    assert problem in caught.value.problem
    assert "phipack measure" in caught.value.fix


def test_a_claim_may_name_a_model_only() -> None:
    found = parsed(match="claim", claim="arXiv 2404.14219", bundle=None, model="phi-3-mini-4k-instruct")
    assert (found.match, found.model) == ("claim", "phi-3-mini-4k-instruct")


def test_a_file_that_is_missing_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"none\.json: can't be read"):
        Measurement.read(tmp_path / "none.json")
    large = tmp_path / "large.json"
    large.write_bytes(b" " * (BYTES_LIMIT + 1))
    with pytest.raises(MeasurementError, match="larger than 16,777,216 bytes"):
        Measurement.read(large)


def test_every_figure_of_a_device_has_a_unit_and_a_meaning() -> None:
    assert len(DEVICE_FIGURES) == 7
    assert all(unit and meaning for unit, meaning in (FIGURES[name] for name in DEVICE_FIGURES))
