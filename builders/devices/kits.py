"""For each format: the programs that measure it on a device, and which files of a bundle they need."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builders.devices import genai_bench, llama_bench
from builders.devices.bench_run import BenchRun
from builders.devices.provider import DeviceSettings
from registry.bundle.manifest import FileEntry, Manifest
from targets.errors import MeasurementError, SetupError
from targets.recipes import Format

_DOCS = "docs/devices.md says how to build them for a phone"
# e_machine of ELF (System V ABI, and its supplements) -> Android's name of the ABI.
_ABIS = {183: "arm64-v8a", 40: "armeabi-v7a", 62: "x86_64", 3: "x86", 243: "riscv64"}


@dataclass(frozen=True)
class Kit:
    """How bundles of one format are measured. `arguments`: of one repeat, for the bundle's folder on the device."""

    runtime: str
    program: str
    accuracy_program: str | None
    is_needed: Callable[[str], bool]
    holds_weights: Callable[[str], bool]
    arguments: Callable[[str, Manifest, DeviceSettings], Sequence[str]]
    parse: Callable[[str], BenchRun]

    def files(self, manifest: Manifest) -> list[FileEntry]:
        """Return the files that must be on the device."""
        return [file for file in manifest.files if self.is_needed(file.path)]

    def weights_bytes(self, manifest: Manifest) -> int:
        """Return the bytes of the files that hold the weights."""
        return sum(file.bytes for file in manifest.files if self.holds_weights(file.path))


def gguf_file(manifest: Manifest) -> str:
    """Return the path of a GGUF bundle's weights."""
    return next(file.path for file in manifest.files if file.path.endswith(".gguf"))


def _llama_arguments(folder: str, manifest: Manifest, settings: DeviceSettings) -> Sequence[str]:
    model = f"{folder}/{gguf_file(manifest)}"
    command = llama_bench.bench_arguments(model, settings.prompt_tokens, settings.decode_tokens, settings.threads)
    return [*command, *llama_bench.cache_arguments(manifest.recipe.kv_cache)]


def _genai_arguments(folder: str, _manifest: Manifest, settings: DeviceSettings) -> Sequence[str]:
    return genai_bench.bench_arguments(folder, settings.prompt_tokens, settings.decode_tokens)


KITS: dict[Format, Kit] = {
    "gguf": Kit(
        runtime=llama_bench.NAME,
        program=llama_bench.BENCH,
        accuracy_program=llama_bench.PERPLEXITY,
        is_needed=lambda path: path.endswith(".gguf"),
        holds_weights=lambda path: path.endswith(".gguf"),
        arguments=_llama_arguments,
        parse=llama_bench.parse_bench,
    ),
    "onnx": Kit(
        runtime=genai_bench.NAME,
        program=genai_bench.BENCH,
        accuracy_program=None,
        is_needed=lambda path: "/" not in path,
        holds_weights=lambda path: path.startswith("model.onnx"),
        arguments=_genai_arguments,
        parse=genai_bench.parse_bench,
    ),
}


def kit_for(manifest: Manifest) -> Kit:
    """Return how a bundle is measured on an Android phone. Raises `MeasurementError` for a format without a runtime."""
    kit = KITS.get(manifest.recipe.format)
    if kit is None:
        raise MeasurementError(
            f"{manifest.recipe.name}: Android has no runtime for {manifest.recipe.format}",
            fix="measure it on an Apple device, or measure a GGUF or ONNX bundle here",
        )
    return kit


def programs_of(runtime: Path | None, kit: Kit, abis: Sequence[str]) -> list[Path]:
    """Return a runtime's program and what lies in its folder: other programs and libraries.

    Args:
        runtime: the folder that holds the benchmark; or the program itself, which then needs nothing else.
        kit: says which program is needed.
        abis: what the device runs, such as `arm64-v8a`; empty if it doesn't say.

    Raises:
        SetupError: the program is missing, or is built for another kind of device.
    """
    if runtime is None:
        raise SetupError(
            f"measuring needs {kit.runtime}'s {kit.program}, built for the phone",
            fix=f"name its folder with --runtime; {_DOCS}",
        )
    if runtime.is_dir():
        found = [path for path in sorted(runtime.iterdir()) if path.is_file() and _is_part(path, kit)]
    else:
        found = [runtime] if runtime.is_file() and runtime.name == kit.program else []
    if kit.program not in {path.name for path in found}:
        raise SetupError(f"{runtime}: no {kit.program} there", fix=f"name the folder that holds it; {_DOCS}")
    for path in found:
        _require_abi(path, abis)
    return found


def _is_part(path: Path, kit: Kit) -> bool:
    return path.name in (kit.program, kit.accuracy_program) or ".so" in path.suffixes


def _require_abi(path: Path, abis: Sequence[str]) -> None:
    """Refuse a program for other processors. What is no ELF file (a script) is left to the phone."""
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return
    machine = struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)[0]
    abi = _ABIS.get(machine, f"machine {machine}")
    if abis and abi not in abis:
        raise SetupError(
            f"{path.name} is built for {abi}, and the phone runs {', '.join(abis)}",
            fix=f"build it for {abis[0]}; {_DOCS}",
        )
