"""Which parser reads a file: by its content, or by the format's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from targets.benchmark_files.ai_hub import is_ai_hub, read_ai_hub
from targets.benchmark_files.executorch import is_executorch, read_executorch
from targets.benchmark_files.genai_benchmark import is_genai_benchmark, read_genai_benchmark
from targets.benchmark_files.json_rows import json_of
from targets.benchmark_files.llama_bench import is_llama_bench, read_llama_bench
from targets.benchmark_files.result import BenchmarkFileError, BenchmarkResult, refused
from targets.benchmark_files.xctest import is_xctest, read_xctest
from targets.bounded_file import TooLargeError, read_at_most

BYTES_LIMIT = 16 << 20

FORMATS: dict[str, Callable[[bytes, str], list[BenchmarkResult]]] = {
    "llama-bench": read_llama_bench,
    "onnxruntime-genai": read_genai_benchmark,
    "ai-hub": read_ai_hub,
    "executorch": read_executorch,
    "xctest": read_xctest,
}
_JSON = {"llama-bench": is_llama_bench, "onnxruntime-genai": is_genai_benchmark, "executorch": is_executorch}


def read_benchmark(path: Path, format_name: str | None = None) -> list[BenchmarkResult]:
    """Return the runs in a file.

    Args:
        path: the file, as the benchmark wrote it.
        format_name: a key of `FORMATS`; found by the content if None.

    Raises:
        BenchmarkFileError: the file can't be read, has none of the formats, or is malformed.
    """
    try:
        raw = read_at_most(path, BYTES_LIMIT)
    except OSError as error:
        raise BenchmarkFileError(
            f"{path}: can't be read: {error.strerror}", fix="use the path of a benchmark's output"
        ) from error
    except TooLargeError as error:
        raise refused(str(path), "", f"more than {BYTES_LIMIT:,} bytes") from error
    return FORMATS[format_name or format_of(raw, str(path))](raw, str(path))


def format_of(raw: bytes, source: str) -> str:
    """Return the name of a file's format, by its content. Raises `BenchmarkFileError`."""
    if raw.lstrip()[:1] in (b"[", b"{"):
        content = json_of(raw, source)
        for name, looks_like in _JSON.items():
            if looks_like(content):
                return name
    elif is_xctest(raw):
        return "xctest"
    elif is_ai_hub(raw):
        return "ai-hub"
    raise refused(
        source, "", "not the output of a benchmark that is known here", fix=f"import one of: {', '.join(FORMATS)}"
    )
