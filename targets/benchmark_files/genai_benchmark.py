"""The JSON of onnxruntime-genai's benchmark, `benchmark/python/benchmark_e2e.py`.

An array of records, one for each batch size, prompt length and generation length:
`config` (with `prompt_length` and `tokens_generated`), `metadata` (`device` is the execution provider) and `metrics`.
Fields that are 0 or empty are left out by its writer. Throughputs are averages over `--repetitions`, times the batch
size; that of generation counts `compute_logits` alone, without sampling. `--precision` is what the user passed.

Source: microsoft/onnxruntime-genai, benchmark/python/benchmark_e2e.py and metrics.py.
"""

from __future__ import annotations

from targets.benchmark_files.json_rows import Row, json_of, rows_of
from targets.benchmark_files.result import BenchmarkResult, mean_figure, refused
from targets.measurement import RuntimeEntry, SettingsEntry

TOOL = "benchmark_e2e.py of onnxruntime-genai"
_BITS = {"int4": 4, "int8": 8, "fp16": 16, "bf16": 16, "fp32": 32}
_NO_START = "the script's prompt latency is without tokenization and sampling"


def is_genai_benchmark(content: object) -> bool:
    """Return True where a JSON value looks like its output."""
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and {"config", "metadata", "metrics"} <= first.keys()


def read_genai_benchmark(raw: bytes, source: str) -> list[BenchmarkResult]:
    """Return the runs of a file: those of one sequence at a time. Raises `BenchmarkFileError`."""
    records = rows_of(json_of(raw, source), source)
    single = [record for record in records if record.row("config").whole("batch_size", least=1) == 1]
    if not single:
        raise refused(
            source, "", "no run of one sequence at a time (batch_size 1)", fix="run benchmark_e2e.py with -b 1"
        )
    return [_result(record) for record in single]


def _result(record: Row) -> BenchmarkResult:
    config, metadata, metrics = record.row("config"), record.row("metadata"), record.row("metrics")
    if (backend := config.text("backend")) != "onnxruntime-genai":
        raise config.refused("backend", f"onnxruntime-genai is needed, not {backend[:40]!r}")
    package = metadata.optional_text("package_name") or "onnxruntime-genai"
    precision = config.optional_text("precision")
    return BenchmarkResult(
        tool=TOOL,
        formats=("onnx",),
        model=config.row("model_info").optional_text("full_name") or "unnamed",
        runtime=RuntimeEntry(
            name=package,
            version=metadata.optional_text("package_version") or None,
            backend=metadata.text("device"),
        ),
        figures={
            "device_prefill_tokens_per_second": mean_figure(
                metrics.speed("prompt_processing_throughput_tps"), "token/s"
            ),
            "device_decode_tokens_per_second": mean_figure(metrics.speed("token_generation_throughput_tps"), "token/s"),
        },
        settings=SettingsEntry(
            prompt_tokens=config.whole("prompt_length", least=1),
            decode_tokens=config.whole("tokens_generated", least=1),
            context_length=config.whole("max_length", least=1),
            batch_size=1,
        ),
        not_measured={"device_time_to_first_token_seconds": _NO_START},
        weight_bits=_BITS.get(precision),
        weight_type=precision or None,
    )
