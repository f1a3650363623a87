"""What other projects' benchmarks write."""

from __future__ import annotations

import json
from pathlib import Path

from targets.benchmark_files import FORMATS
from targets.benchmark_files.formats import format_of
from tests.fuzz.target import Target
from tests.support.benchmark_files import (
    PERF_YAML,
    XCTEST_LINE,
    executorch_metric,
    executorch_upload,
    genai_record,
    llama_bench,
    llama_bench_test,
)


def _target(name: str, *corpus: bytes, inputs: int = 250) -> Target:
    """Return a parser that reads the corpus by its own name and what is damaged by its content, too."""

    def parse(raw: bytes) -> object:
        found = [result.title for result in FORMATS[name](raw, "file")]
        return found, format_of(raw, "file")

    return Target(corpus, parse, inputs)


def llama_bench_target(_: Path) -> Target:
    lines = b"\n".join(json.dumps(llama_bench_test(n_gen=tokens)).encode() for tokens in (32, 128))
    return _target("llama-bench", llama_bench(), lines)


def genai_benchmark_target(_: Path) -> Target:
    return _target("onnxruntime-genai", json.dumps([genai_record()]).encode())


def ai_hub_target(_: Path) -> Target:
    return _target("ai-hub", PERF_YAML, inputs=150)


def executorch_target(_: Path) -> Target:
    written = [executorch_metric("load_status", 0), executorch_metric("token_per_sec", 9.5)]
    uploaded = [executorch_upload("token_per_sec", 7.0)]
    return _target("executorch", json.dumps(written).encode(), json.dumps(uploaded).encode())


def xctest_target(_: Path) -> Target:
    return _target("xctest", f"Test Suite started\n{XCTEST_LINE}\n{XCTEST_LINE}\n".encode())
