"""Outputs of other projects' benchmarks, in the forms that their sources document. The numbers are our own."""

from __future__ import annotations

import json
from typing import Any


def llama_bench_test(**changes: Any) -> dict[str, Any]:
    """Return one test as llama-bench b5163 writes it: generation of 128 tokens, unless `n_prompt` is changed."""
    test: dict[str, Any] = {
        "build_commit": "8cf427ff",
        "build_number": 5163,
        "cpu_info": "",
        "gpu_info": "Apple A17 Pro GPU",
        "backends": "Metal,BLAS",
        "model_filename": "models/model.gguf",
        "model_type": "phi3 3B Q4_K - Medium",
        "model_size": 2_390_000_000,
        "model_n_params": 3_821_079_648,
        "n_batch": 2048,
        "n_ubatch": 512,
        "n_threads": 4,
        "cpu_mask": "0x0",
        "cpu_strict": False,
        "poll": 50,
        "type_k": "f16",
        "type_v": "f16",
        "n_gpu_layers": 99,
        "split_mode": "layer",
        "main_gpu": 0,
        "no_kv_offload": False,
        "flash_attn": False,
        "tensor_split": "0.00",
        "use_mmap": True,
        "embeddings": False,
        "n_prompt": 0,
        "n_gen": 128,
        "n_depth": 0,
        "test_time": "2025-04-24T11:58:51Z",
    } | changes
    speeds = (200.0, 210.0, 204.0) if test["n_prompt"] else (16.0, 15.0, 15.5)
    tokens = test["n_prompt"] + test["n_gen"]
    times = [round(tokens / speed * 1e9) for speed in speeds]
    measured = {"avg_ns": sum(times) // 3, "stddev_ns": 1_000_000, "avg_ts": sum(speeds) / 3, "stddev_ts": 0.5}
    return test | measured | {"samples_ns": times, "samples_ts": list(speeds)} | changes


def llama_bench(*tests: dict[str, Any]) -> bytes:
    """Return the JSON of tests; by default one of prompt processing and one of generation."""
    return json.dumps(list(tests) or [llama_bench_test(n_prompt=512, n_gen=0), llama_bench_test()]).encode()


def genai_record(**metrics: Any) -> dict[str, Any]:
    """Return one record as benchmark_e2e.py writes it: pandas makes its counts 1.0, 512.0."""
    return {
        "config": {
            "backend": "onnxruntime-genai",
            "batch_size": 1.0,
            "precision": "int4",
            "warmup_runs": 1,
            "measured_runs": 10,
            "model_info": {"full_name": "phi-3-mini-4k-instruct"},
            "prompt_length": 512.0,
            "tokens_generated": 128.0,
            "max_length": 640.0,
        },
        "metadata": {"device": "cpu", "package_name": "onnxruntime-genai", "package_version": "0.5.2"},
        "metrics": {
            "tokenization_throughput_tps": 250_000.0,
            "prompt_processing_throughput_tps": 80.0,
            "prompt_processing_latency_ms": 6400.0,
            "token_generation_throughput_tps": 9.5,
            "token_generation_latency_ms": 105.2,
            "wall_clock_time_s": 20.1,
        }
        | metrics,
        "trigger_date": "2025-04-24 11:58:51",
    }


PERF_YAML = b"""supported_devices:
  - Samsung Galaxy S24
  - Snapdragon 8 Elite QRD
supported_chipsets:
  - qualcomm-snapdragon-8gen3
precisions:
  w4a16:
    components:
      Phi-3.5-Mini-Instruct:
        performance_metrics:
          Samsung Galaxy S24:
            qnn_context_binary:
              llm_metrics:
                - context_length: 4096
                  tokens_per_second: 13.5
                  time_to_first_token_range_milliseconds:
                    min: 150.5
                    max: 4700.25
          Snapdragon 8 Elite QRD:
            genie:
              context_length: 4096
              tokens_per_second: 15
              time_to_first_token_range_milliseconds:
                min: 120
                max: 3800.0
"""


def executorch_metric(metric: str, value: float, **device: str) -> dict[str, Any]:
    """Return a metric as ExecuTorch's Android app writes it."""
    return {
        "benchmarkModel": {"name": "llama3", "backend": "xnnpack", "quantization": "8da4w"},
        "metric": metric,
        "actualValue": value,
        "targetValue": 0.0,
        "deviceInfo": {"device": "samsung", "arch": "SM-S921U", "os": "Android 14", "totalMem": 0, "availMem": 0}
        | device,
    }


def executorch_upload(metric: str, value: float) -> dict[str, Any]:
    """Return a metric as ExecuTorch's CI uploads it (schema v3)."""
    return {
        "benchmark": {"name": "ExecuTorch", "mode": "inference", "extra_info": {"app_type": "IOS_APP"}},
        "model": {"name": "llama3", "type": "OSS model", "backend": "xnnpack_q8"},
        "metric": {
            "name": metric,
            "benchmark_values": [value],
            "target_value": 0,
            "extra_info": {"method": "generate"},
        },
        "runners": [{"name": "Apple iPhone 15", "type": "iOS 18.0", "avail_mem_in_gb": 0, "total_mem_in_gb": 0}],
    }


XCTEST_LINE = (
    "/Users/me/Tests/ModelTests.swift:30: Test Case '-[AppTests.ModelTests testDecode]' measured "
    "[Tokens Per Second, t/s] average: 13.400, relative standard deviation: 0.746%, values: [13.300000, 13.500000], "
    'performanceMetricID:TokensPerSecondMetric, baselineName: "", baselineAverage: , polarity: prefers larger, '
    "maxPercentRegression: 10.000%, maxPercentRelativeStandardDeviation: 10.000%, maxRegression: 0.000, "
    "maxStandardDeviation: 0.000"
)
