"""Each format in its documented form, what is refused in it, and how a format is recognised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from targets.benchmark_files import FORMATS, BenchmarkResult, read_benchmark
from targets.benchmark_files.formats import format_of
from targets.benchmark_files.result import BenchmarkFileError
from tests.support.benchmark_files import (
    PERF_YAML,
    XCTEST_LINE,
    executorch_metric,
    executorch_upload,
    genai_record,
    llama_bench,
    llama_bench_test,
)

DECODE, PREFILL = "device_decode_tokens_per_second", "device_prefill_tokens_per_second"
EXECUTORCH = [executorch_metric("load_status", 0), executorch_metric("token_per_sec", 10.9)]


def as_json(content: object) -> bytes:
    return json.dumps(content).encode()


def read(name: str, raw: bytes) -> list[BenchmarkResult]:
    return FORMATS[name](raw, "file")


def values(result: BenchmarkResult) -> dict[str, float]:
    return {name: figure.value for name, figure in result.figures.items()}


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("llama-bench", llama_bench()),
        ("llama-bench", b"\n".join(as_json(test) for test in json.loads(llama_bench()))),
        ("llama-bench", as_json(llama_bench_test())),  # JSON lines with one line
        ("onnxruntime-genai", as_json([genai_record()])),
        ("executorch", as_json(EXECUTORCH)),
        ("executorch", as_json([executorch_upload("token_per_sec", 7.0)])),
        ("ai-hub", PERF_YAML),
        ("xctest", XCTEST_LINE.encode()),
    ],
)
def test_a_format_is_recognised_by_its_content(name: str, raw: bytes, tmp_path: Path) -> None:
    assert format_of(raw, "file") == name
    (tmp_path / "file").write_bytes(raw)
    assert read_benchmark(tmp_path / "file") == read(name, raw)


@pytest.mark.parametrize("raw", [b"", b"hello", b"[]", b"{}", b'[{"a": 1}]', b"a: 1\n"])
def test_another_file_is_refused_with_the_known_formats(raw: bytes) -> None:
    with pytest.raises(BenchmarkFileError, match="not the output of a benchmark") as caught:
        format_of(raw, "file")
    assert "llama-bench, onnxruntime-genai, ai-hub" in caught.value.fix


def test_llama_bench_prompt_and_generation_are_one_run() -> None:
    (result,) = read("llama-bench", llama_bench())
    assert values(result) == {PREFILL: 204.0, DECODE: 15.5}  # medians of the samples
    assert result.figures[DECODE].samples == (16.0, 15.0, 15.5)
    assert result.figures[DECODE].spread == pytest.approx(1 / 15.5)
    assert (result.model, result.weight_type, result.recipe, result.weight_bits) == (
        *("model.gguf", "Q4_K - Medium", "gguf-q4_k_m", 4),
    )
    assert (result.model_bytes, result.parameters) == (2_390_000_000, 3_821_079_648)
    assert (result.runtime.version, result.runtime.backend) == ("b5163 (8cf427ff)", "Metal,BLAS")
    assert (result.settings.prompt_tokens, result.settings.decode_tokens, result.settings.repeats) == (512, 128, 3)
    assert result.taken is not None
    assert result.taken.isoformat() == "2025-04-24T11:58:51+00:00"


def test_llama_bench_configurations_are_runs_of_their_own() -> None:
    tests = [
        llama_bench_test(n_threads=threads, n_prompt=prompt, n_gen=128 if not prompt else 0)
        for threads in (4, 8)
        for prompt in (0, 512)
    ]
    assert [set(values(result)) for result in read("llama-bench", llama_bench(*tests))] == [{PREFILL, DECODE}] * 2
    lengths = [llama_bench_test(n_gen=tokens) for tokens in (32, 128)]  # which of the two goes with the prompt's?
    runs = read("llama-bench", llama_bench(llama_bench_test(n_prompt=512, n_gen=0), *lengths))
    assert [set(values(result)) for result in runs] == [{PREFILL}, {DECODE}, {DECODE}]


def test_llama_bench_after_a_prompt_is_no_figure() -> None:
    """A test of prompt and generation together, and one with a full cache, are not what `device_` figures mean."""
    combined, deep = llama_bench_test(n_prompt=512, n_gen=128), llama_bench_test(n_depth=4096)
    with pytest.raises(BenchmarkFileError, match="no test of prompt processing or generation alone"):
        read("llama-bench", llama_bench(combined, deep))


@pytest.mark.parametrize(
    ("model_type", "recipe", "bits"),
    [
        ("phi3 3B Q4_0", "gguf-q4_0", 4),
        ("phi3 3B mostly Q8_0", "gguf-q8_0", 8),
        ("phi3 14B Q4_K - Medium (guessed)", "gguf-q4_k_m", 4),
        ("phi3 3B F16", "gguf-f16", 16),
        ("phi3 3B all F32", None, 32),
        ("phi3 3B IQ2_XXS - 2.0625 bpw", None, 2),
        ("phi3 3B", None, None),
    ],
)
def test_llama_bench_type_of_weights(model_type: str, recipe: str | None, bits: int | None) -> None:
    (result,) = read("llama-bench", llama_bench(llama_bench_test(model_type=model_type)))
    assert (result.recipe, result.weight_bits) == (recipe, bits)


def test_genai_benchmark() -> None:
    (result,) = read("onnxruntime-genai", as_json([genai_record()]))
    assert values(result) == {PREFILL: 80.0, DECODE: 9.5}
    assert (result.settings.prompt_tokens, result.settings.decode_tokens) == (512, 128)
    assert (result.runtime.name, result.runtime.version, result.runtime.backend) == (
        *("onnxruntime-genai", "0.5.2", "cpu"),
    )
    assert (result.weight_bits, result.model) == (4, "phi-3-mini-4k-instruct")


def test_genai_throughput_of_several_sequences_is_no_figure() -> None:
    batch = genai_record()
    batch["config"]["batch_size"] = 4.0
    assert len(read("onnxruntime-genai", as_json([batch, genai_record()]))) == 1
    with pytest.raises(BenchmarkFileError, match="no run of one sequence") as caught:
        read("onnxruntime-genai", as_json([batch]))
    assert caught.value.fix == "run benchmark_e2e.py with -b 1"


def test_ai_hub_in_both_forms() -> None:
    s24, board = read("ai-hub", PERF_YAML)
    assert (s24.device, s24.soc, s24.runtime.backend, values(s24)) == (
        *("Samsung Galaxy S24", None, "qnn_context_binary", {DECODE: 13.5}),
    )
    assert (board.device, board.soc, board.runtime.backend, values(board)) == (
        *("Snapdragon 8 Elite QRD", "Snapdragon 8 Elite", "genie", {DECODE: 15.0}),
    )
    assert (s24.weight_bits, s24.settings.context_length) == (4, 4096)
    assert s24.not_measured == {
        "device_time_to_first_token_seconds": "150.5 to 4700.25 ms, by the length of the prompt"
    }


def test_executorch_in_both_forms() -> None:
    (app,) = read("executorch", as_json(EXECUTORCH))
    assert (values(app), app.device, app.os, app.os_version) == ({DECODE: 10.9}, "SM-S921U", "Android", "14")
    assert (app.weight_bits, app.runtime.backend, app.formats) == (4, "xnnpack", ())
    (upload,) = read("executorch", as_json([executorch_upload("token_per_sec", 7.0)]))
    assert (values(upload), upload.device, upload.os_version) == ({DECODE: 7.0}, "Apple iPhone 15", "18.0")


def test_xctest_line() -> None:
    (result,) = read("xctest", f"Test Suite started\n{XCTEST_LINE}\nexit\n".encode())
    assert result.figures[DECODE].samples == (13.3, 13.5)
    assert values(result) == {DECODE: pytest.approx(13.4)}


def _test(**changes: Any) -> bytes:
    return llama_bench(llama_bench_test() | changes)


def _genai(**changes: Any) -> bytes:
    return as_json([genai_record() | changes])


@pytest.mark.parametrize(
    ("name", "raw", "problem"),
    [
        ("llama-bench", _test(avg_ts=99.0), r"\[0\].avg_ts: the mean of samples_ts is 15.5"),
        ("llama-bench", _test(samples_ts=[16.0, 15.0, 99.0]), "99 token/s do not follow from 128 tokens"),
        ("llama-bench", _test(samples_ts=[16.0]), "3 times for 1 speeds"),
        ("llama-bench", _test(samples_ts=[]), "samples_ts: an array of 1 to"),
        ("llama-bench", _test(samples_ts=[float("nan")] * 3), "finite number"),
        ("llama-bench", _test(n_gen="128"), "n_gen: a number is needed"),
        ("llama-bench", _test(n_gen=True), "n_gen: a number is needed"),
        ("llama-bench", _test(n_gen=1.5), "n_gen: a whole number"),
        ("llama-bench", _test(model_size=0), "model_size: a whole number of at least 1"),
        ("llama-bench", _test(test_time="yesterday"), "test_time: a time such as"),
        ("llama-bench", _test(backends=["Metal"]), "backends: a text"),
        ("llama-bench", b"[1]", r"\[0\]: an object is needed"),
        ("llama-bench", b"{1}", "not JSON"),
        ("llama-bench", b'{"a": 1}\n{"a": }\n', "line 2: not JSON"),
        ("onnxruntime-genai", _genai(metrics={}), "metrics.prompt_processing_throughput_tps: missing"),
        ("onnxruntime-genai", _genai(metrics={"prompt_processing_throughput_tps": -1}), "greater than 0"),
        ("onnxruntime-genai", _genai(metadata={"device": 1}), "metadata.device: a text"),
        ("ai-hub", b"precisions: [1]\n", "precisions: a mapping is needed"),
        ("ai-hub", b"precisions: {}\n", "no language model's metrics"),
        ("ai-hub", b"precisions: &a {b: *a}\n", "an alias or a tag"),
        ("ai-hub", b"precisions: !!python/name:os.system {}\n", "an alias or a tag"),
        ("ai-hub", b"precisions: {\n", "not YAML"),
        ("ai-hub", b"a: \xff\n", "not UTF-8"),
        ("ai-hub", b"a: " + b"[" * 50 + b"]" * 50, "nested deeper"),
        ("ai-hub", PERF_YAML.replace(b"min: 150.5", b"min: 9999"), "min: more than max"),
        ("ai-hub", PERF_YAML.replace(b"13.5", b".nan"), "tokens_per_second: a finite number"),
        ("ai-hub", PERF_YAML.replace(b"13.5", b"fast"), "tokens_per_second: a number"),
        ("executorch", as_json([executorch_metric("token_per_sec", 0)]), "the run failed"),
        ("executorch", as_json([*EXECUTORCH[1:], executorch_metric("load_status", 34)]), "the model was not loaded"),
        ("executorch", as_json([EXECUTORCH[1]] * 2), "a second token_per_sec of llama3 on SM-S921U"),
        ("executorch", as_json(EXECUTORCH[:1]), "no token_per_sec in it"),
        ("executorch", as_json([executorch_upload("FAILURE_REPORT", 0)]), "a report of a failure"),
        ("xctest", b"Test Case '-[A b]' measured [Clock Monotonic Time, s] average: 1", "no test measured"),
        ("xctest", XCTEST_LINE.replace("average: 13.4", "average: 99.4").encode(), "the average of the values is 13.4"),
        ("xctest", XCTEST_LINE.replace("[13.3", "[0.0").encode(), "greater than 0"),
        ("xctest", XCTEST_LINE.replace("average:", "mean:").encode(), "line 1: not a metric"),
    ],
)
def test_what_is_refused(name: str, raw: bytes, problem: str) -> None:
    with pytest.raises(BenchmarkFileError, match=problem) as caught:
        read(name, raw)
    assert caught.value.problem.startswith("file: ")
    assert caught.value.fix


def test_a_file_that_is_missing_or_endless(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkFileError, match="No such file"):
        read_benchmark(tmp_path / "missing.json")
    with pytest.raises(BenchmarkFileError, match="more than 16,777,216 bytes"):
        read_benchmark(Path("/dev/zero"))
