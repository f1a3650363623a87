"""llama.cpp's own programs: `llama-bench` for speed, `llama-perplexity` for accuracy. What they are asked and print.

Formats: tools/llama-bench/llama-bench.cpp (`json_printer`) and tools/perplexity/perplexity.cpp (`kl_divergence`) of
llama.cpp. One run of `llama-bench -r 1` is one repeat: between repeats the device cools down.
"""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from builders.devices.bench_run import BenchRun
from targets.errors import MeasurementError
from targets.strict_json import MalformedJsonError, parse_json

BENCH, PERPLEXITY = "llama-bench", "llama-perplexity"
NAME = "llama.cpp"
_MEAN_KL = re.compile(r"^Mean\s+KLD:\s+(\S+)", re.MULTILINE)
_CHUNK = re.compile(r"^\s*\d+\s+(?:\S+\s+±\s+\S+\s+){2}(\S+)\s+±", re.MULTILINE)


class _Row(BaseModel):
    """One test of llama-bench's JSON. Newer versions add keys."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    build_commit: str = ""
    build_number: int = 0
    backends: str = ""
    n_threads: int | None = None
    n_batch: int | None = None
    n_prompt: int
    n_gen: int
    samples_ns: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]


def cache_arguments(kv_cache: str) -> list[str]:
    """Return what opens a model with a type of KV cache, in either program; nothing for the default, empty."""
    return ["-ctk", kv_cache, "-ctv", kv_cache, "-fa", "1"] if kv_cache else []


def bench_arguments(model: str, prompt_tokens: int, decode_tokens: int, threads: int | None) -> list[str]:
    """Return the command for one repeat. The generation comes last: energy is taken from the end of the run."""
    command = [f"./{BENCH}", "-m", model, "-p", str(prompt_tokens), "-n", str(decode_tokens), "-r", "1", "-o", "json"]
    return command if threads is None else [*command, "-t", str(threads)]


def parse_bench(output: str) -> BenchRun:
    """Return what one run of llama-bench printed.

    Raises:
        MeasurementError: it is not llama-bench's JSON, or a test is missing.
    """
    start = output.find("[")
    try:
        rows = TypeAdapter(list[_Row]).validate_python(parse_json(output[max(start, 0) :], ours=False))
    except (MalformedJsonError, ValidationError) as error:
        raise _not_understood(output) from error
    prompt = next((row for row in rows if row.n_prompt and not row.n_gen), None)
    decode = next((row for row in rows if row.n_gen and not row.n_prompt), None)
    if prompt is None or decode is None:
        raise _not_understood(output)
    return BenchRun(
        prompt_tokens=prompt.n_prompt,
        prompt_seconds=prompt.samples_ns[0] / 1e9,
        decode_tokens=decode.n_gen,
        decode_seconds=decode.samples_ns[0] / 1e9,
        version=f"b{decode.build_number} ({decode.build_commit})" if decode.build_number else None,
        backend=decode.backends or None,
        threads=decode.n_threads,
        batch_size=decode.n_batch,
    )


def perplexity_arguments(model: str, base: str, length: int, threads: int | None) -> list[str]:
    """Return the command that compares with a base file of sequences of `length` tokens, one sequence at a time."""
    size = str(length)
    command = [f"./{PERPLEXITY}", "-m", model, "--kl-divergence-base", base, "--kl-divergence", "-c", size, "-b", size]
    return command if threads is None else [*command, "-t", str(threads)]


def parse_perplexity(output: str) -> float:
    """Return the mean KL divergence that llama-perplexity printed, in nats: of the whole, else of its last chunk.

    It prints statistics from 100 positions on; the last chunk's column is the mean so far.

    Raises:
        MeasurementError: it printed none, or one that is no number: a kernel that computes NaN.
    """
    found = _MEAN_KL.findall(output) or _CHUNK.findall(output)
    try:
        value = float(found[-1])
    except (IndexError, ValueError) as error:
        raise MeasurementError(
            f"{PERPLEXITY} printed no KL divergence: {' | '.join(output.strip().splitlines()[-3:]) or 'nothing'}",
            fix="use llama-bench and llama-perplexity of one recent llama.cpp: docs/devices.md",
        ) from error
    if not math.isfinite(value):
        raise MeasurementError(
            f"the KL divergence on the device is {value}: its kernels compute numbers that are none",
            fix="try another backend or build of llama.cpp; on the same SoC other bundles of this recipe fail too",
        )
    return max(0.0, value)  # six digits: -0.000000 is printed for an exact match


def _not_understood(output: str) -> MeasurementError:
    return MeasurementError(
        f"{BENCH} did not print its JSON for a prompt and a generation: {output.strip()[:200] or 'nothing'}",
        fix="use a llama-bench of a recent llama.cpp: docs/devices.md",
    )
