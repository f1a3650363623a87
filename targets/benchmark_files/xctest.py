"""Performance metrics in the log of an XCTest run (`xcodebuild test`): what an app's own test prints about a model.

    FILE:LINE: Test Case '-[CLASS NAME]' measured [Tokens Per Second, t/s] average: 13.420,
    relative standard deviation: 1.2%, values: [13.4, 13.5, …], performanceMetricID:…

on one line. Only the metric `Tokens Per Second, t/s` is read: ExecuTorch's LLaMATests.mm names its own metric so, which
counts the time of the prompt, too. `Memory Peak Physical, kB` does not say how many bytes a kB has. The line names
neither device nor model: who imports it states them.

What Instruments' Core ML template and Xcode's performance reports store has no published form, and is not read.

Source: pytorch/executorch, extension/benchmark/apple/Benchmark/Tests and .github/scripts/extract_benchmark_results.py.
"""

from __future__ import annotations

import math
import re

from targets.benchmark_files.result import BenchmarkResult, refused
from targets.measurement import RuntimeEntry, SampledFigure, SettingsEntry

TOOL = "XCTest"
_LINE = re.compile(
    r"Test Case '-\[(?P<suite>[\w.]{1,200}) (?P<name>[\w+]{1,200})\]' measured \[Tokens Per Second, t/s\] "
    r"average: (?P<average>[0-9.]{1,30}), relative standard deviation: [0-9.]{1,30}%, "
    r"values: \[(?P<values>[0-9., ]{1,100000})\]"
)
_DECODE = "device_decode_tokens_per_second"
_LINES_LIMIT = 1_000
_ROUNDING = 0.005  # the average has three decimals


def is_xctest(raw: bytes) -> bool:
    """Return True where a file looks like such a log."""
    return b"measured [" in raw and b"Test Case '-[" in raw


def read_xctest(raw: bytes, source: str) -> list[BenchmarkResult]:
    """Return one run for each test that measured tokens per second. Raises `BenchmarkFileError`."""
    found: list[BenchmarkResult] = []
    for number, line in enumerate(raw.decode("utf-8", "replace").splitlines(), 1):
        if "[Tokens Per Second, t/s]" in line:
            if len(found) == _LINES_LIMIT:
                raise refused(source, f"line {number}", f"more than {_LINES_LIMIT:,} measurements")
            found.append(_result(line, source, f"line {number}"))
    if not found:
        raise refused(source, "", "no test measured [Tokens Per Second, t/s]")
    return found


def _result(line: str, source: str, where: str) -> BenchmarkResult:
    match = _LINE.search(line)
    if match is None:
        raise refused(source, where, "not a metric as XCTest prints it")
    values = [_number(text, source, where) for text in match["values"].split(",")]
    average = _number(match["average"], source, where)
    if not math.isclose(sum(values) / len(values), average, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        raise refused(source, where, f"the average of the values is {sum(values) / len(values):g}, not {average:g}")
    return BenchmarkResult(
        tool=TOOL,
        formats=("coreml",),
        model=match["name"],
        runtime=RuntimeEntry(name="Core ML"),
        figures={_DECODE: SampledFigure.median(_DECODE, values)},
        settings=SettingsEntry(repeats=len(values)),
        os="iOS",
    )


def _number(text: str, source: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise refused(source, where, f"{text.strip()[:40]!r} is not a number") from error
    if not 0 < value < math.inf:
        raise refused(source, where, f"a speed greater than 0 is needed, not {text.strip()[:40]}")
    return value
