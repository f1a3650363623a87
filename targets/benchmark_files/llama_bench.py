"""`llama-bench -o json` and `-o jsonl` of llama.cpp.

An array of tests (JSON lines: one object a line). A test is of prompt processing (`n_prompt` > 0, `n_gen` 0), of
generation (`n_gen` > 0, `n_prompt` 0), or of both after another. `samples_ts` has tokens per second of each repetition,
`samples_ns` its time; `avg_ts` is the mean of the former. `n_depth`: tokens that are in the cache already. `model_size`
and `model_n_params` count all tensors of the file, whose type is the end of `model_type`.

Source: ggml-org/llama.cpp, tools/llama-bench/README.md (section "Output formats") and llama-bench.cpp.
"""

from __future__ import annotations

import math
import re
from datetime import datetime

from targets.benchmark_files.json_rows import Row, json_of, rows_of
from targets.benchmark_files.result import BenchmarkResult, refused
from targets.measurement import RuntimeEntry, SampledFigure, SettingsEntry

TOOL = "llama-bench"
# The same run of the same model: prompt processing and generation with these alike belong together.
_CONFIGURATION = (
    *("build_commit", "backends", "cpu_info", "gpu_info", "model_filename", "model_type", "model_size"),
    *("n_batch", "n_ubatch", "n_threads", "type_k", "type_v", "n_gpu_layers", "flash_attn", "devices"),
)
_RECIPES = {  # llama_ftype_name in llama.cpp's src/llama-model-loader.cpp
    "F16": "gguf-f16",
    "Q8_0": "gguf-q8_0",
    "Q6_K": "gguf-q6_k",
    "Q5_K - Medium": "gguf-q5_k_m",
    "Q4_K - Medium": "gguf-q4_k_m",
    "Q4_0": "gguf-q4_0",
    "IQ4_NL - 4.5 bpw": "gguf-iq4_nl",
    "Q3_K - Medium": "gguf-q3_k_m",
}
_BITS = {"F32": 32, "F16": 16, "BF16": 16}
_APPLE_CHIP = re.compile(r"(Apple [AM]\d+(?: (?:Pro|Max|Ultra|Bionic))?)(?: GPU)?")  # Metal's name of the device
_ROUNDING = 0.01  # avg_ts and samples_ts are written with few digits


def is_llama_bench(content: object) -> bool:
    """Return True where a JSON value looks like its output."""
    first = content[0] if isinstance(content, list) and content else content
    return isinstance(first, dict) and {"model_filename", "avg_ts"} <= first.keys()


def read_llama_bench(raw: bytes, source: str) -> list[BenchmarkResult]:
    """Return the runs of a file. Raises `BenchmarkFileError`."""
    content = json_of(raw, source)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows_of([content] if isinstance(content, dict) else content, source):
        _check(row)
        groups.setdefault(tuple(repr(row.content.get(name)) for name in _CONFIGURATION), []).append(row)
    found = [result for rows in groups.values() for result in _results(rows)]
    if not found:
        raise refused(
            source, "", "no test of prompt processing or generation alone, with an empty cache",
            fix="run llama-bench with -p 512 -n 128, without -pg and -d",
        )  # fmt: skip
    return found


def _results(rows: list[Row]) -> list[BenchmarkResult]:
    """Return one result where there is one prompt length and one generation length; else one a test."""
    empty = [row for row in rows if row.whole("n_depth", default=0) == 0]
    prefill = [row for row in empty if row.whole("n_prompt") and not row.whole("n_gen")]
    decode = [row for row in empty if row.whole("n_gen") and not row.whole("n_prompt")]
    if len(prefill) == len(decode) == 1:
        return [_result(prefill[0], decode[0])]
    return [*(_result(row, None) for row in prefill), *(_result(None, row) for row in decode)]


def _result(prefill: Row | None, decode: Row | None) -> BenchmarkResult:
    any_row = prefill or decode
    assert any_row is not None
    tests = {"device_prefill_tokens_per_second": prefill, "device_decode_tokens_per_second": decode}
    weight_type = _weight_type(any_row.text("model_type"))
    chip = _APPLE_CHIP.fullmatch(any_row.optional_text("gpu_info"))
    return BenchmarkResult(
        tool=TOOL,
        formats=("gguf",),
        model=any_row.text("model_filename").replace("\\", "/").rpartition("/")[2],
        runtime=RuntimeEntry(
            name="llama.cpp",
            version=f"b{any_row.whole('build_number')} ({any_row.text('build_commit')})",
            backend=any_row.optional_text("backends") or None,
        ),
        figures={name: SampledFigure.median(name, row.numbers("samples_ts")) for name, row in tests.items() if row},
        settings=SettingsEntry(
            prompt_tokens=None if prefill is None else prefill.whole("n_prompt"),
            decode_tokens=None if decode is None else decode.whole("n_gen"),
            batch_size=any_row.whole("n_batch", least=1),
            threads=any_row.whole("n_threads", least=1),
            repeats=len(any_row.numbers("samples_ts")),
        ),
        parameters=any_row.whole("model_n_params", least=1),
        model_bytes=any_row.whole("model_size", least=1),
        weight_bits=_bits(weight_type),
        weight_type=weight_type,
        recipe=None if weight_type is None else _RECIPES.get(weight_type),
        kv_cache=" and ".join(sorted({any_row.optional_text(f"type_{part}") for part in "kv"})) or None,
        soc=None if chip is None else chip[1],
        taken=_time(any_row),
    )


def _check(row: Row) -> None:
    """Raise `BenchmarkFileError` where the averages are not those of the samples."""
    samples, times = row.numbers("samples_ts"), row.numbers("samples_ns")
    if len(samples) != len(times):
        raise row.refused("samples_ns", f"{len(times)} times for {len(samples)} speeds")
    tokens = row.whole("n_prompt") + row.whole("n_gen")
    for speed, nanoseconds in zip(samples, times, strict=True):
        if speed <= 0 or nanoseconds <= 0:
            raise row.refused("samples_ts", "times and speeds must be greater than 0")
        if not math.isclose(speed * nanoseconds, tokens * 1e9, rel_tol=_ROUNDING):
            raise row.refused("samples_ts", f"{speed:g} token/s do not follow from {tokens} tokens in {nanoseconds} ns")
    average = sum(samples) / len(samples)
    if not math.isclose(row.speed("avg_ts"), average, rel_tol=_ROUNDING):
        raise row.refused("avg_ts", f"the mean of samples_ts is {average:g}")


def _weight_type(model_type: str) -> str | None:
    """Return the file's type of weights (`Q4_K - Medium`) from `qwen2 7B Q4_K - Medium`; None where it has another."""
    text = model_type.removesuffix(" (guessed)").replace("all F32", "F32").replace("mostly ", "")
    head, dash, size = text.rpartition(" - ")
    name = (head or size).rpartition(" ")[2]
    if not any(name.startswith(prefix) for prefix in ("Q", "IQ", "TQ", "F", "BF", "MXFP")):
        return None
    return f"{name} - {size}" if dash else name


def _bits(weight_type: str | None) -> int | None:
    """Return the nominal bits of a type: 4 for `Q4_K - Medium`."""
    if weight_type is None:
        return None
    if weight_type in _BITS:
        return _BITS[weight_type]
    digits = weight_type.lstrip("IT").removeprefix("Q")[:1]
    return int(digits) if digits in set("12345678") and "Q" in weight_type[:2] else None


def _time(row: Row) -> datetime | None:
    if "test_time" not in row.content:
        return None
    text = row.text("test_time")
    try:
        return datetime.strptime(text + "+0000", "%Y-%m-%dT%H:%M:%SZ%z")
    except ValueError as error:
        raise row.refused("test_time", f"a time such as 2025-04-24T11:58:50Z is needed, not {text[:40]!r}") from error
