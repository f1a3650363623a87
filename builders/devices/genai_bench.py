"""onnxruntime-genai's own benchmark, `model_benchmark`: what it is asked and prints. It has no output of logits.

Format: benchmark/c/main.cpp of onnxruntime-genai (`WritePerTokenStats`): averages in microseconds, with the number of
measurements and the tokens of each. One run with `-r 1` is one repeat. It prints neither its version nor its threads.
"""

from __future__ import annotations

import re

from builders.devices.bench_run import BenchRun
from targets.errors import MeasurementError

BENCH = "model_benchmark"
NAME = "onnxruntime-genai"
_NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
_PART = rf"^{{label}}:\n\s+avg \(us\):\s+{_NUMBER}\n(?:\s+.*\n)*?\s+n:\s+(\d+) \* (\d+) token"
_PROMPT = re.compile(_PART.format(label=r"Prompt processing \(time to first token\)"), re.MULTILINE)
_DECODE = re.compile(_PART.format(label="Token generation"), re.MULTILINE)
_PEAK = re.compile(r"^Peak working set size: (\d+) bytes", re.MULTILINE)


def bench_arguments(folder: str, prompt_tokens: int, decode_tokens: int) -> list[str]:
    """Return the command for one repeat, after one warm-up."""
    sizes = ["-l", str(prompt_tokens), "-g", str(decode_tokens)]
    return [f"./{BENCH}", "-i", folder, *sizes, "-r", "1", "-w", "1"]


def parse_bench(output: str) -> BenchRun:
    """Return what one run of model_benchmark printed. Raises `MeasurementError` where it is something else."""
    prompt, decode, peak = _PROMPT.search(output), _DECODE.search(output), _PEAK.search(output)
    if prompt is None or decode is None or not float(prompt[1]) or not float(decode[1]):
        raise MeasurementError(
            f"{BENCH} did not print its statistics: {' | '.join(output.strip().splitlines()[-3:]) or 'nothing'}",
            fix="use a model_benchmark of onnxruntime-genai 0.6 or later: docs/devices.md",
        )
    decoded = int(decode[2]) * int(decode[3])
    return BenchRun(
        prompt_tokens=int(prompt[3]),
        prompt_seconds=float(prompt[1]) / 1e6,
        decode_tokens=decoded,
        decode_seconds=float(decode[1]) / 1e6 * int(decode[2]),
        peak_bytes=int(peak[1]) if peak else None,
    )
