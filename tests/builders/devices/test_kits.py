"""Programs for a device: which are needed, found and refused before anything is pushed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from builders.devices.kits import KITS, kit_for, programs_of
from builders.devices.provider import DeviceSettings
from devtools.bundles import make_bundle
from targets.errors import MeasurementError, SetupError

PHONE = ("arm64-v8a", "armeabi-v7a")


def program(path: Path, machine: int = 183) -> Path:
    """Write the head of an ELF program for a processor."""
    head = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9) + struct.pack("<HH", 3, machine)
    path.write_bytes(head + bytes(100))
    return path


def test_a_folder_of_programs(tmp_path: Path) -> None:
    for name in ("llama-bench", "llama-perplexity", "libggml.so", "libomp.so.5", "llama-cli", "README.md"):
        program(tmp_path / name)
    names = [path.name for path in programs_of(tmp_path, KITS["gguf"], PHONE)]
    assert names == ["libggml.so", "libomp.so.5", "llama-bench", "llama-perplexity"]
    assert programs_of(tmp_path / "llama-bench", KITS["gguf"], PHONE) == [tmp_path / "llama-bench"]


@pytest.mark.parametrize("machine", [62, 3, 999])
def test_a_program_for_another_processor_is_refused(tmp_path: Path, machine: int) -> None:
    program(tmp_path / "llama-bench", machine)
    with pytest.raises(SetupError, match="and the phone runs arm64-v8a, armeabi-v7a") as caught:
        programs_of(tmp_path, KITS["gguf"], PHONE)
    assert caught.value.fix.startswith("build it for arm64-v8a; docs/devices.md")


def test_llama_cpp_is_opened_with_the_manifests_kv_cache(tmp_path: Path) -> None:
    settings = DeviceSettings(prompt_tokens=32, decode_tokens=16)
    plain, quantized = (make_bundle(tmp_path / f"b{name}", kv_cache=name).manifest for name in ("", "q8_0"))
    command = KITS["gguf"].arguments("b", plain, settings)
    assert "-ctk" not in command
    assert KITS["gguf"].arguments("b", quantized, settings) == [*command, "-ctk", "q8_0", "-ctv", "q8_0", "-fa", "1"]


def test_missing_programs_are_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"measuring needs llama\.cpp's llama-bench") as caught:
        programs_of(None, KITS["gguf"], PHONE)
    assert "--runtime" in caught.value.fix
    with pytest.raises(SetupError, match="no model_benchmark there"):
        programs_of(tmp_path, KITS["onnx"], PHONE)
    with pytest.raises(SetupError, match="no llama-bench there"):
        programs_of(program(tmp_path / "llama-cli"), KITS["gguf"], PHONE)


def test_android_has_no_runtime_for_core_ml(tmp_path: Path) -> None:
    manifest = make_bundle(tmp_path).manifest
    assert kit_for(manifest).program == "llama-bench"
    apple = manifest.recipe.model_copy(update={"name": "coreml-int4", "format": "coreml"})
    with pytest.raises(MeasurementError, match="coreml-int4: Android has no runtime for coreml"):
        kit_for(manifest.model_copy(update={"recipe": apple}))
