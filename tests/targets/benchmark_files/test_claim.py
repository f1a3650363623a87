"""A claim is refused where the file contradicts it, and stays a claim where it doesn't."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from targets.benchmark_files import FORMATS, BenchmarkResult, Claim, claimed_measurement
from targets.benchmark_files.claim import ClaimedBundle
from targets.benchmark_files.result import BenchmarkFileError
from targets.devices import target_named
from targets.measurement import Measurement
from tests.support.benchmark_files import (
    PERF_YAML,
    executorch_metric,
    genai_record,
    llama_bench,
    llama_bench_test,
)

BUNDLE = ClaimedBundle("sha256:" + "a" * 64, "gguf-q4_k_m", 3_821_079_552, 2_391_000_000)
CLAIM = Claim("alice, run.json", bundle=BUNDLE, target=target_named("iphone-15-pro"))
GENAI = FORMATS["onnxruntime-genai"](json.dumps([genai_record()]).encode(), "file")[0]
EXECUTORCH = FORMATS["executorch"](json.dumps([executorch_metric("token_per_sec", 9)]).encode(), "file")[0]
AI_HUB = FORMATS["ai-hub"](PERF_YAML, "file")


def run(**changes: Any) -> BenchmarkResult:
    return FORMATS["llama-bench"](llama_bench(llama_bench_test(**changes)), "file")[0]


def test_a_claim_that_agrees_is_marked_as_one() -> None:
    found = claimed_measurement(run(), CLAIM)
    assert (found.match, found.bundle, found.recipe, found.source) == ("claim", BUNDLE.digest, "gguf-q4_k_m", "import")
    assert found.claim == "alice, run.json: model.gguf, Q4_K - Medium, Metal,BLAS"
    assert (found.device.soc, found.device.os, found.device.target) == ("Apple A17 Pro", "iOS", "iphone-15-pro")
    assert Measurement.parse(found.to_json().encode(), source="file") == found


@pytest.mark.parametrize(
    ("result", "recipe", "why"),
    [
        (run(model_size=2_180_000_000), "gguf-q4_k_m", "2,180,000,000 bytes of weights"),
        (run(model_n_params=7_240_000_000), "gguf-q4_k_m", "7,240,000,000 parameters"),
        (run(model_type="phi3 3B Q4_0"), "gguf-q4_k_m", r"Q4_0 \(gguf-q4_0\), not gguf-q4_k_m"),
        (run(model_type="phi3 3B Q5_K - Small"), "gguf-q4_k_m", "Q5_K - Small, not gguf-q4_k_m"),
        (run(type_k="q8_0", type_v="q8_0"), "gguf-q4_k_m", "its KV cache is in q8_0, the bundle's in f16"),
        (run(type_v="q8_0"), "gguf-q4_k_m", "its KV cache is in f16 and q8_0, the bundle's in f16"),
        (run(), "onnx-int4", "llama.cpp does not load onnx"),
        (GENAI, "gguf-q4_k_m", "onnxruntime-genai does not load gguf"),
        (GENAI, "onnx-fp16", "have 4 bits, those of onnx-fp16 have 16"),
        (AI_HUB[0], "onnx-fp16", "have 4 bits"),
        (EXECUTORCH, "onnx-int4", "ExecuTorch loads no bundle"),
    ],
)
def test_a_claim_that_the_file_contradicts(result: BenchmarkResult, recipe: str, why: str) -> None:
    claim = replace(CLAIM, bundle=replace(BUNDLE, recipe=recipe), target=None, device=result.device, os="Android")
    with pytest.raises(BenchmarkFileError, match=f"was not this bundle: .*{why}"):
        claimed_measurement(result, replace(claim, device=result.device or "SM-S921U"))


def test_a_quantized_kv_cache_is_the_bundles_own() -> None:
    bundle = replace(BUNDLE, kv_cache="q8_0")
    assert claimed_measurement(run(type_k="q8_0", type_v="q8_0"), replace(CLAIM, bundle=bundle)).bundle
    with pytest.raises(BenchmarkFileError, match="its KV cache is in f16, the bundle's in q8_0"):
        claimed_measurement(run(), replace(CLAIM, bundle=bundle))


def test_what_the_file_does_not_say_is_taken_from_the_claim() -> None:
    assert claimed_measurement(GENAI, replace(CLAIM, bundle=replace(BUNDLE, recipe="onnx-int4"))).bundle
    bare = claimed_measurement(AI_HUB[0], Claim("bob, perf.yaml", os="Android"))
    assert (bare.bundle, bare.model, bare.device.model) == (None, "Phi-3.5-Mini-Instruct", "Samsung Galaxy S24")


@pytest.mark.parametrize(
    ("result", "claim", "problem", "fix"),
    [
        (run(), Claim("a"), "does not name the device", "--device MODEL"),
        (run(), Claim("a", device="iPhone15,4"), "does not name the operating system", "--os 'Android 14'"),
        (AI_HUB[0], Claim("a", device="SM-S911U", os="Android"), "is of Samsung Galaxy S24", "name Samsung Galaxy S24"),
        (AI_HUB[1], Claim("a", target=target_named("galaxy-s24")), "on the Snapdragon 8 Elite", "with that chip"),
        (run(), Claim("a", target=target_named("iphone-15")), "on the Apple A17 Pro", "with that chip"),
        (
            run(),
            Claim("a", target=target_named("iphone-15-pro"), os="Android"),
            "has iOS, and the run was on",
            "system",
        ),
        (
            run(),
            Claim("a", device="iPhone15,4", target=target_named("iphone-15-pro")),
            "on iPhone15,4, which is iphone-15, not iphone-15-pro",
            "--target iphone-15",
        ),
        (run(), Claim("a", device="x", os="iOS", soc="Apple A16"), "is Apple A17 Pro in the file", "leave it out"),
        (EXECUTORCH, Claim("a", os="iOS"), "system is Android in the file, not iOS", "leave it out"),
        (EXECUTORCH, Claim("a", os="Android", os_version="15"), "version is 14 in the file", "leave it out"),
        (EXECUTORCH, Claim("a", target=target_named("iphone-15")), "has iOS, and the run was on Android", "system"),
    ],
)
def test_the_device_must_be_known_and_the_same(result: BenchmarkResult, claim: Claim, problem: str, fix: str) -> None:
    with pytest.raises(BenchmarkFileError, match=problem) as caught:
        claimed_measurement(result, claim)
    assert fix in caught.value.fix
