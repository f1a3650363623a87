"""`perf.yaml` of Qualcomm AI Hub's models, for language models.

    precisions: PRECISION: components: MODEL: performance_metrics: DEVICE: PATH: llm_metrics:
    - context_length, tokens_per_second, time_to_first_token_range_milliseconds: {min, max}

An earlier form has these three directly below PATH. PATH is the runtime (`qnn_context_binary`, `genie`). The precision
`w4a16` means weights of 4 bits and activations of 16; a few layers have weights of 8. `tokens_per_second` is the rate
after the first token. The time to the first token is a range by the prompt's length, not a figure.

Source: quic/ai-hub-models, qai_hub_models/configs/perf_yaml.py, and models/*/perf.yaml and info.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from targets.benchmark_files.json_rows import Row, rows_of
from targets.benchmark_files.result import BenchmarkResult, mean_figure, refused
from targets.benchmark_files.yaml_text import yaml_of
from targets.measurement import RuntimeEntry, SettingsEntry

TOOL = "perf.yaml of Qualcomm AI Hub"
_PRECISION = re.compile(r"w([0-9]{1,2})(?:a[0-9]{1,2})?")
_BOARD = re.compile(r"(Snapdragon .+) (?:QRD|CRD)")  # Qualcomm's reference devices are named by their chip


def is_ai_hub(raw: bytes) -> bool:
    """Return True where a file looks like a `perf.yaml`."""
    return re.search(rb"^precisions:", raw, re.MULTILINE) is not None


def read_ai_hub(raw: bytes, source: str) -> list[BenchmarkResult]:
    """Return the runs of a file, one for each device, precision and context length. Raises `BenchmarkFileError`."""
    found = list(_results(_mapping(yaml_of(raw, source), source, ""), source))
    if not found:
        raise refused(source, "", "no language model's metrics in it", fix="import a perf.yaml that has llm_metrics")
    return found


def _results(document: dict[str, Any], source: str) -> Iterator[BenchmarkResult]:
    for precision, details in _below(document, "precisions", source, ""):
        at = f"precisions.{precision}"
        for model, component in _below(details, "components", source, at):
            inner = f"{at}.components.{model}"
            for device, paths in _below(component, "performance_metrics", source, inner):
                place = f"{inner}.performance_metrics.{device}"
                for path, metrics in _mapping(paths, source, place).items():
                    for row in _llm_rows(_mapping(metrics, source, f"{place}.{path}"), source, f"{place}.{path}"):
                        yield _result(row, (precision, model, device, path))


def _llm_rows(metrics: dict[str, Any], source: str, where: str) -> list[Row]:
    if "llm_metrics" in metrics:
        return rows_of(metrics["llm_metrics"], source, f"{where}.llm_metrics")
    return [Row(metrics, source, where)] if "tokens_per_second" in metrics else []


def _result(row: Row, names: tuple[str, str, str, str]) -> BenchmarkResult:
    precision, model, device, path = names
    bits, board = _PRECISION.fullmatch(precision), _BOARD.fullmatch(device)
    first = row.row("time_to_first_token_range_milliseconds")
    least, most = first.speed("min"), first.speed("max")
    if least > most:
        raise first.refused("min", f"more than max, {most:g}")
    return BenchmarkResult(
        tool=TOOL,
        formats=("onnx",),
        model=model,
        runtime=RuntimeEntry(name="QNN", backend=path),
        figures={"device_decode_tokens_per_second": mean_figure(row.speed("tokens_per_second"), "token/s")},
        settings=SettingsEntry(context_length=row.whole("context_length", least=1), batch_size=1),
        not_measured={
            "device_time_to_first_token_seconds": f"{least:g} to {most:g} ms, by the length of the prompt",
        },
        weight_bits=None if bits is None else int(bits[1]),
        weight_type=precision,
        device=device,
        soc=None if board is None else board[1],
    )


def _below(content: Any, key: str, source: str, where: str) -> list[tuple[str, Any]]:
    """Return the items of the mapping at a key; none where the key is missing."""
    return list(_mapping(_mapping(content, source, where).get(key, {}), source, f"{where}.{key}".strip(".")).items())


def _mapping(value: Any, source: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) and 0 < len(key) <= 200 for key in value):
        raise refused(source, where, "a mapping is needed, with names of at most 200 characters")
    return value
