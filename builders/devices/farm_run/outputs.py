"""Reads what the script left on the phone into a measurement. Everything here comes from a machine of somebody else."""

from __future__ import annotations

import re
from collections.abc import Mapping

from builders.devices.farm_run.folder import BENCH, MODEL, FarmFolder
from builders.devices.figures import KL, within_spread
from builders.devices.provider import MeasureRequest
from targets.benchmark_files.llama_bench import read_llama_bench
from targets.benchmark_files.result import BenchmarkResult
from targets.devices import target_with
from targets.errors import DeviceError
from targets.measurement import DeviceEntry, Measurement, RuntimeEntry, Source

NAMES = frozenset(
    (
        "sha256.txt",
        "getprop.txt",
        "battery-before.txt",
        "battery-after.txt",
        "llama-bench.json",
        "llama-bench.err",
        "done",
    )
)
BYTES_LIMIT = 4 << 20  # of each file
_PROPERTY = re.compile(r"^\[([\w.-]{1,100})\]: \[([^\]]{0,200})\]\r?$", re.MULTILINE)
_DIGEST = re.compile(r"^([0-9a-f]{64})[ *]+(\S{1,200})\r?$", re.MULTILINE)
_TEMPERATURE = re.compile(r"^\s*temperature: (-?[0-9]{1,4})\r?$", re.MULTILINE)
_AGAIN = "measure again; on another device if it fails the same way"


def farm_measurement(
    outputs: Mapping[str, bytes], folder: FarmFolder, request: MeasureRequest, source: Source
) -> Measurement:
    """Return the measurement in the files of `out/`, by name.

    Raises:
        DeviceError: the run was cut short or failed, or ran other files than the bundle's.
        MeasurementError: llama-bench's output is malformed.
    """
    if "done" not in outputs:
        raise DeviceError("the run on the phone was cut short", fix="give it more minutes, and measure again")
    if (status := _text(outputs, "done").strip()) != "0":
        last = " | ".join(_text(outputs, "llama-bench.err").strip().splitlines()[-3:])[:500]
        raise DeviceError(
            f"llama-bench ended with {status[:20]} on the phone: {last or 'it printed nothing'}", fix=_AGAIN
        )
    _check_digests(_text(outputs, "sha256.txt"), folder)
    results = read_llama_bench(outputs.get("llama-bench.json", b""), "llama-bench.json")
    if len(results) != 1:
        raise DeviceError(f"llama-bench reported {len(results)} runs, not one", fix=_AGAIN)
    return _measurement(outputs, folder, request, results[0], source)


def _measurement(
    outputs: Mapping[str, bytes],
    folder: FarmFolder,
    request: MeasureRequest,
    result: BenchmarkResult,
    source: Source,
) -> Measurement:
    figures, missing = within_spread(result.figures, request.settings.spread)
    if not figures:
        raise DeviceError(f"no speed was measured: {'; '.join(missing.values())}", fix=_AGAIN)
    if request.reference is not None:
        missing[KL] = "a farm's phone runs llama-bench alone: compare the answers on a phone of your own"
    runtime = result.runtime
    return Measurement(
        schema="phipack.measurement/1",
        match="digest",
        bundle=request.bundle.digest,
        model=request.model,
        recipe=request.bundle.manifest.recipe.name,
        weights_bytes=result.model_bytes,
        device=_device(_text(outputs, "getprop.txt")),
        runtime=RuntimeEntry(
            name=runtime.name, version=runtime.version, backend=runtime.backend, binary=folder.bench_digest
        ),
        settings=result.settings,
        figures=figures,
        not_measured=missing,
        temperature_before_celsius=_celsius(_text(outputs, "battery-before.txt")),
        temperature_after_celsius=_celsius(_text(outputs, "battery-after.txt")),
        throttled=None,
        source=source,
        tool=result.tool,
        taken=result.taken,
    )


def _check_digests(text: str, folder: FarmFolder) -> None:
    found = {name: f"sha256:{digest}" for digest, name in _DIGEST.findall(text)}
    for name, wanted in ((MODEL, folder.model_digest), (BENCH, folder.bench_digest)):
        if found.get(name) != wanted:
            raise DeviceError(
                f"the phone ran another {name} than was sent: {found.get(name) or 'no digest came back'}", fix=_AGAIN
            )


def _device(text: str) -> DeviceEntry:
    """Return the device by Android's system properties."""
    known = dict(_PROPERTY.findall(text))
    model = known.get("ro.product.model")
    if not model:
        raise DeviceError("the phone did not say what model it is", fix=_AGAIN)
    target = target_with(model)
    return DeviceEntry(
        model=model,
        manufacturer=known.get("ro.product.manufacturer") or None,
        soc=target.soc if target is not None else known.get("ro.soc.model") or None,
        os="Android",
        os_version=known.get("ro.build.version.release") or None,
        abi=known.get("ro.product.cpu.abi") or None,
        target=None if target is None else target.name,
    )


def _celsius(text: str) -> float | None:
    """Return the battery's temperature, which Android states in tenths of a degree."""
    found = _TEMPERATURE.search(text)
    return None if found is None else int(found[1]) / 10


def _text(outputs: Mapping[str, bytes], name: str) -> str:
    return outputs.get(name, b"").decode("utf-8", "replace")
