"""The folder for a farm's phone, the script that really runs here, and what its outputs are read into."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builders.devices.farm_run.folder import farm_folder
from builders.devices.farm_run.outputs import NAMES, farm_measurement
from builders.devices.provider import ReferenceAnswers
from devtools.bundles import make_bundle
from registry.files.digests import digest_of_file
from targets.errors import DeviceError, MeasurementError, SetupError
from tests.support.benchmark_files import llama_bench, llama_bench_test
from tests.support.farm_phone import BROKEN, request_of, run_on_phone


def test_the_script_measures_and_its_outputs_are_a_measurement(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    folder = farm_folder(request)
    outputs = run_on_phone(folder, tmp_path)
    assert set(outputs) == NAMES
    found = farm_measurement(outputs, folder, request, "test-lab")
    assert (found.match, found.bundle, found.source) == ("digest", request.bundle.digest, "test-lab")
    assert found.figures["device_decode_tokens_per_second"].value == 15.5
    assert (found.device.model, found.device.soc, found.device.target) == (
        "SM-S921U",
        "Snapdragon 8 Gen 3",
        "galaxy-s24",
    )
    assert (found.device.os_version, found.device.abi) == ("14", "arm64-v8a")
    assert (found.temperature_before_celsius, found.temperature_after_celsius) == (31.2, 31.2)
    assert found.runtime.binary == digest_of_file(tmp_path / "runtime" / "llama-bench")
    assert found.on == "SM-S921U, Android 14, llama.cpp b5163 (8cf427ff) Metal,BLAS, 31.2 to 31.2 °C"


def test_llama_bench_runs_with_the_manifests_kv_cache(tmp_path: Path) -> None:
    request = request_of(tmp_path, '#!/bin/sh\necho "$@" >&2\ncat "$(dirname "$0")/answer.json"\n')
    bundle = make_bundle(tmp_path / "quantized", {"model.gguf": b"weights" * 100}, kv_cache="q4_0")
    outputs = run_on_phone(farm_folder(replace(request, bundle=bundle)), tmp_path)
    asked = "-m model.gguf -p 512 -n 128 -r 3 -ctk q4_0 -ctv q4_0 -fa 1 -o json\n"
    assert outputs["llama-bench.err"].decode() == asked


def test_llama_bench_runs_with_the_threads_that_are_asked_for(tmp_path: Path) -> None:
    request = request_of(tmp_path, '#!/bin/sh\necho "$@" >&2\ncat "$(dirname "$0")/answer.json"\n')
    asked = replace(request, settings=replace(request.settings, threads=4))
    outputs = run_on_phone(farm_folder(asked), tmp_path)
    assert outputs["llama-bench.err"].decode() == "-m model.gguf -p 512 -n 128 -r 3 -t 4 -o json\n"


def test_accuracy_that_was_asked_for_is_said_to_be_missing(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    folder = farm_folder(request)
    outputs = run_on_phone(folder, tmp_path)
    answers = ReferenceAnswers(np.zeros((1, 8), np.int64), 32, list)
    found = farm_measurement(outputs, folder, replace(request, reference=answers), "test-lab")
    assert "llama-bench alone" in found.not_measured["device_kl_mean"]
    assert "device_kl_mean" not in farm_measurement(outputs, folder, request, "test-lab").not_measured


def test_a_program_that_fails_on_the_phone(tmp_path: Path) -> None:
    request = request_of(tmp_path, BROKEN)
    folder = farm_folder(request)
    with pytest.raises(DeviceError, match="llama-bench ended with 1 on the phone: error: failed to load model"):
        farm_measurement(run_on_phone(folder, tmp_path), folder, request, "test-lab")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("done", None, "the run on the phone was cut short"),
        ("sha256.txt", b"0" * 64 + b"  model.gguf\n", "the phone ran another model.gguf than was sent: sha256:0000"),
        ("sha256.txt", b"", "no digest came back"),
        ("getprop.txt", b"[ro.product.model]: []", "did not say what model it is"),
        ("llama-bench.json", llama_bench(*[llama_bench_test(n_threads=n) for n in (1, 2)]), "2 runs, not one"),
    ],
)
def test_outputs_that_are_not_believed(tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    request = request_of(tmp_path)
    folder = farm_folder(request)
    outputs = run_on_phone(folder, tmp_path)
    changed = {key: value for key, value in outputs.items() if key != name} | (
        {} if content is None else {name: content}
    )
    with pytest.raises(DeviceError, match=problem) as caught:
        farm_measurement(changed, folder, request, "test-lab")
    assert caught.value.fix


def test_output_that_is_not_json(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    folder = farm_folder(request)
    with pytest.raises(MeasurementError, match=r"llama-bench\.json: not JSON"):
        farm_measurement(run_on_phone(folder, tmp_path, b"killed"), folder, request, "test-lab")


def test_repeats_that_differ_too_much_are_no_figure(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    strict = replace(request, settings=replace(request.settings, spread=0.055))
    folder = farm_folder(strict)
    outputs = run_on_phone(folder, tmp_path)
    found = farm_measurement(outputs, folder, strict, "test-lab")
    assert set(found.figures) == {"device_prefill_tokens_per_second"}  # 5 %; decoding has 6 %
    assert found.not_measured["device_decode_tokens_per_second"].startswith("a spread of 6% between repeats")
    with pytest.raises(DeviceError, match="no speed was measured"):
        farm_measurement(outputs, folder, replace(strict, settings=replace(strict.settings, spread=0.01)), "test-lab")


def test_what_a_farms_phone_can_not_run(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    onnx = make_bundle(tmp_path / "onnx", {"model.onnx": b"x"}, recipe="onnx-int4")
    with pytest.raises(MeasurementError, match="a bundle of one GGUF file, and this one is onnx-int4"):
        farm_folder(replace(request, bundle=onnx))
    with pytest.raises(SetupError, match="no runtime for the phone"):
        farm_folder(replace(request, runtime=None))
    with pytest.raises(SetupError, match="has no llama-bench"):
        farm_folder(replace(request, runtime=tmp_path))
    assert set(farm_folder(request).files) == {"model.gguf", "llama-bench", "libggml.so"}
    one = replace(request, runtime=tmp_path / "runtime" / "llama-bench")
    assert set(farm_folder(one).files) == {"model.gguf", "llama-bench"}
