"""ExecuTorch's benchmark results: what its apps write, and the form in which its CI uploads them.

The apps write `benchmark_results.json`, an array of
`{benchmarkModel: {name, backend, quantization}, metric, actualValue, targetValue, deviceInfo: {device, arch, os}}`,
`arch` being the phone's model. The upload (schema v3 of PyTorch's benchmark database) has
`{benchmark: {name: "ExecuTorch"}, model: {name, backend}, metric: {name, benchmark_values}, runners: [{name, type}]}`.
`token_per_sec` counts generated tokens from the end of the prompt on. `load_status` other than 0 is a failure, as is a
metric `FAILURE_REPORT`. Memory is not read: `mb` is of 1024 kB on iOS and not stated on Android.

No bundle of phipack's is a `.pte`: such figures are for the predictor.

Source: pytorch/executorch, extension/benchmark/android (BenchmarkMetric.java, LlmBenchmark.java) and
.github/scripts/extract_benchmark_results.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from targets.benchmark_files.json_rows import Row, json_of, rows_of
from targets.benchmark_files.result import BenchmarkResult, refused
from targets.measurement import RuntimeEntry, SampledFigure

TOOL = "ExecuTorch's benchmark app"
_SPEED, _STATUS, _FAILURE = "token_per_sec", "load_status", "FAILURE_REPORT"
_DECODE = "device_decode_tokens_per_second"


@dataclass(frozen=True)
class _Run:
    """What the metrics of one run share."""

    model: str
    backend: str
    quantization: str
    device: str
    os: str


def is_executorch(content: object) -> bool:
    """Return True where a JSON value looks like either form."""
    first = content[0] if isinstance(content, list) and content else None
    if not isinstance(first, dict):
        return False
    return {"benchmarkModel", "metric"} <= first.keys() or {"benchmark", "model", "metric", "runners"} <= first.keys()


def read_executorch(raw: bytes, source: str) -> list[BenchmarkResult]:
    """Return the runs of a file that generated tokens. Raises `BenchmarkFileError`."""
    runs: dict[_Run, dict[str, tuple[Row, tuple[float, ...]]]] = {}
    for row in rows_of(json_of(raw, source), source):
        run, metric, values = _uploaded(row) if "benchmark" in row.content else _written(row)
        if metric in runs.setdefault(run, {}):
            raise row.refused("metric", f"a second {metric} of {run.model} on {run.device}")
        runs[run][metric] = (row, values)
    found = [_result(run, metrics) for run, metrics in runs.items() if _SPEED in metrics]
    if not found:
        raise refused(source, "", "no run of a language model: no token_per_sec in it")
    return found


def _written(row: Row) -> tuple[_Run, str, tuple[float, ...]]:
    model, device = row.row("benchmarkModel"), row.row("deviceInfo")
    run = _Run(
        model.text("name"),
        model.optional_text("backend"),
        model.optional_text("quantization"),
        device.text("arch"),
        device.text("os"),
    )
    return run, row.text("metric"), (row.number("actualValue"),)


def _uploaded(row: Row) -> tuple[_Run, str, tuple[float, ...]]:
    if (name := row.row("benchmark").text("name")) != "ExecuTorch":
        raise row.refused("benchmark.name", f"ExecuTorch is needed, not {name[:40]!r}")
    model, metric, runners = row.row("model"), row.row("metric"), row.rows("runners")
    if len(runners) != 1:
        raise row.refused("runners", f"one device is needed, not {len(runners)}")
    run = _Run(model.text("name"), model.optional_text("backend"), "", runners[0].text("name"), runners[0].text("type"))
    if metric.text("name") == _FAILURE:
        raise row.refused("metric", f"a report of a failure, on {run.device}: nothing was measured")
    return run, metric.text("name"), metric.numbers("benchmark_values")


def _result(run: _Run, metrics: dict[str, tuple[Row, tuple[float, ...]]]) -> BenchmarkResult:
    row, speeds = metrics[_SPEED]
    if any(speed <= 0 for speed in speeds):
        raise row.refused(_SPEED, "a speed of 0 or less: the run failed")
    if _STATUS in metrics and any(metrics[_STATUS][1]):
        raise metrics[_STATUS][0].refused(_STATUS, f"{metrics[_STATUS][1][0]:g}: the model was not loaded")
    os, _, version = run.os.partition(" ")
    bits = next((bits for bits, marks in _BITS.items() if any(mark in run.quantization for mark in marks)), None)
    return BenchmarkResult(
        tool=TOOL,
        formats=(),
        model=run.model,
        runtime=RuntimeEntry(name="ExecuTorch", backend=run.backend or None),
        figures={_DECODE: SampledFigure.median(_DECODE, speeds)},
        weight_bits=bits,
        weight_type=run.quantization or None,
        device=run.device,
        os=os or None,
        os_version=version or None,
    )


_BITS = {4: ("4w", "int4", "q4"), 8: ("8w", "q8", "int8"), 16: ("fp16", "bf16"), 32: ("fp32",)}
