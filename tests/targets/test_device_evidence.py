"""Gates on devices: in the project file, and what a measurement, a claim and nothing at all count for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from targets.device_evidence import counts_for, device_figures, observation_of
from targets.devices import target_named
from targets.errors import MeasurementError, ProjectError
from targets.evidence import judge_figures
from targets.gates import Gate, GateResult
from targets.models import known_model
from targets.project import load_project
from tests.support.measurements import measurement

FIGURE = "device_decode_tokens_per_second"
IPHONE_15, IPHONE_14_PRO, PIXEL = (target_named(name) for name in ("iphone-15", "iphone-14-pro", "pixel-10"))


def written(folder: Path, gates: str) -> Path:
    path = folder / "phipack.toml"
    cell = '[[cells]]\ntarget = "iphone-15"\nrecipe = "coreml-int4"\n'
    path.write_text(f'model = "phi"\nversion = "1.0.0"\ncheckpoint = "c"\n[gates]\n{gates}\n{cell}', "utf-8")
    return path


def test_a_gate_on_the_device_is_one_on_its_own_figure(tmp_path: Path) -> None:
    text = 'decode_tokens_per_second = { at_least = 12, on = "device" }\nkl_mean = { at_most = 0.1 }'
    gates = load_project(written(tmp_path, text)).gates
    assert gates == {FIGURE: Gate(at_least=12, on="device"), "kl_mean": Gate(at_most=0.1)}
    assert list(load_project(written(tmp_path, f"{FIGURE} = {{ at_least = 12 }}")).gates) == [FIGURE]
    host = load_project(written(tmp_path, "decode_tokens_per_second = { at_least = 12 }")).gates
    assert list(host) == ["decode_tokens_per_second"]


@pytest.mark.parametrize(
    ("gate", "problem", "fix"),
    [
        (
            'perplexity_ratio = { at_most = 1.1, on = "device" }',
            "perplexity_ratio.on: perplexity_ratio is not measured on devices",
            "remove on, or bound one of: prefill_tokens_per_second, decode_tokens_per_second",
        ),
        ('kl_mean = { at_most = 1, on = "host" }', "kl_mean.on: Input should be 'device'", "write one of 'device'"),
        (
            "kl_mean = { at_most = 1, accept_claims = true }",
            "accept_claims: nobody claims kl_mean: it is measured here",
            'add on = "device"',
        ),
        (
            f'decode_tokens_per_second = {{ at_least = 1, on = "device" }}\n{FIGURE} = {{ at_least = 2 }}',
            f"a second gate on {FIGURE}",
            "keep one of the two",
        ),
    ],
)
def test_a_gate_that_means_nothing_is_refused_at_its_line(tmp_path: Path, gate: str, problem: str, fix: str) -> None:
    with pytest.raises(ProjectError) as caught:
        load_project(written(tmp_path, gate))
    assert problem in caught.value.problem
    assert ":5: " in caught.value.problem or ":6: " in caught.value.problem
    assert fix in caught.value.fix


def judged(speed: float, gate: Gate, *, claim: bool = False) -> GateResult:
    found = device_figures([measurement(speed, match="claim" if claim else "digest")], IPHONE_15)
    (result,) = judge_figures(found, {FIGURE: gate}, asked_by="cell")
    return result


def test_a_measurement_decides() -> None:
    assert judged(13.0, Gate(at_least=12)).passed
    slow = judged(11.0, Gate(at_least=12))
    assert (slow.passed, slow.value, slow.note) == (False, 11.0, "")
    assert "note" not in slow.model_dump()  # evidence of before has no such key


def test_nothing_measured_is_not_met_and_says_how_to_measure() -> None:
    (result,) = judge_figures({}, {FIGURE: Gate(at_least=12)}, asked_by="cell")
    assert (result.passed, result.value) == (False, None)
    assert "not measured on a device with this chip: phipack measure BUNDLE --device DEVICE" in str(result)
    assert GateResult.model_validate_json(result.model_dump_json()) == result


def test_a_claim_counts_where_it_is_accepted_and_stays_one() -> None:
    refused = judged(13.0, Gate(at_least=12), claim=True)
    assert (refused.passed, refused.value) == (False, None)
    assert "there is only a claim, of 13; measure it" in refused.note
    assert judged(13.0, Gate(at_least=12, accept_claims=True), claim=True).passed
    assert not judged(11.0, Gate(at_least=12, accept_claims=True), claim=True).passed
    figure = device_figures([measurement(match="claim")], IPHONE_15)[FIGURE]
    assert (figure.kind, figure.on.endswith("claimed by alice: run.json")) == ("claimed", True)


def test_the_same_chip_counts_and_another_does_not() -> None:
    assert counts_for(measurement(), IPHONE_15)
    assert counts_for(measurement(), IPHONE_14_PRO)  # both carry the A16
    assert not counts_for(measurement(), PIXEL)
    assert counts_for(measurement(model="iPhone15,4", soc=None), IPHONE_15)  # by its own name
    assert not counts_for(measurement(model="iPhone15,4", soc=None), IPHONE_14_PRO)
    assert counts_for(measurement(model="board", soc=None, target="pixel-10"), PIXEL)


def test_a_chip_that_android_calls_by_its_number_is_the_one_of_the_phones_target() -> None:
    """`phipack measure` through adb keeps what the phone says; Device Farm's measurements name the target's chip."""
    oneplus, galaxy = target_named("oneplus-12"), target_named("galaxy-s24")
    assert oneplus.soc == galaxy.soc == "Snapdragon 8 Gen 3"
    by_adb = measurement(model="SM-S921U", os="Android", soc="QTI SM8650", target="galaxy-s24")
    assert counts_for(by_adb, oneplus)
    assert not counts_for(by_adb, PIXEL)
    assert FIGURE in device_figures([by_adb], oneplus)
    learned = observation_of(by_adb.model_copy(update={"weights_bytes": 2_000_000_000}))
    assert (learned.soc, learned.efficiency) == (galaxy.soc, pytest.approx(13 * 2e9 / galaxy.memory_bandwidth.value))


def test_what_was_measured_of_the_bundle_goes_before_claims_and_the_latest_first() -> None:
    claim = measurement(20.0, match="claim", day=9)
    old, new = measurement(12.0, day=1), measurement(13.0, day=2)
    for order in ([claim, old, new], [new, claim, old]):
        assert device_figures(order, IPHONE_15)[FIGURE].value == 13.0
    assert device_figures([claim, measurement(12.0, soc="Tensor G5", model="Pixel")], IPHONE_15)[FIGURE].value == 20.0
    assert device_figures([], IPHONE_15) == {}


def test_what_can_be_learned_from_a_measurement() -> None:
    known = measurement(12.0).model_copy(update={"weights_bytes": 2_000_000_000})
    found = observation_of(known)
    assert (found.soc, found.runtime, found.efficiency) == ("Apple A16", "llama.cpp", pytest.approx(12 * 2 / 51.2))
    named = known.model_copy(update={"model": "Phi-3-mini-4k-instruct", "recipe": "gguf-q4_0"})
    cache = known_model("phi-3-mini-4k-instruct").kv_cache_bytes(512, bytes_per_value=2)
    stated = 12 * (2e9 - 32064 * 3072 * 18 / 32 + cache) / 51.2e9  # the embedding's rows are not read
    assert observation_of(named).efficiency == pytest.approx(stated, rel=1e-4)
    named = named.model_copy(update={"weights_bytes": None})
    assert 12 * 2.3e9 / 51.2e9 < observation_of(named).efficiency < 12 * 2.4e9 / 51.2e9  # weights and cache read


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"weights_bytes": None}, "how many bytes were read"),
        ({"device": {"model": "x", "os": "Android"}}, "the memory bandwidth of an unknown chip"),
        ({"figures": {}}, "no speed of decoding"),
    ],
)
def test_nothing_can_be_learned(changes: dict[str, object], problem: str) -> None:
    content = json.loads(measurement().to_json()) | {"weights_bytes": 2_000_000_000} | changes
    with pytest.raises(MeasurementError, match=problem):
        observation_of(type(measurement()).model_validate_json(json.dumps(content)))
