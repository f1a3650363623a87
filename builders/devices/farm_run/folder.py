"""Puts together the folder that a farm's phone runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from builders.devices.llama_bench import cache_arguments
from builders.devices.provider import DeviceSettings, MeasureRequest
from registry.files.digests import digest_of_file
from targets.errors import MeasurementError, SetupError

MODEL, BENCH, SCRIPT, OUT = "model.gguf", "llama-bench", "run.sh", "out"
_FIX = "give llama.cpp's llama-bench for arm64 Android, or the folder that has it and its lib*.so: docs/devices.md"


@dataclass(frozen=True)
class FarmFolder:
    """The files that go to the phone, by their name there. The digests, `sha256:…`, are of what must run there.

    `kv_cache`: the type with which the model is opened; llama.cpp's own where empty.
    """

    files: dict[str, Path]
    model_digest: str
    bench_digest: str
    settings: DeviceSettings
    kv_cache: str = ""

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.files.values())

    @property
    def arguments(self) -> str:
        """Return the arguments of the script."""
        settings = self.settings
        counts = (settings.prompt_tokens, settings.decode_tokens, settings.repeats)
        threads = () if settings.threads is None else ("-t", str(settings.threads))
        return " ".join([*map(str, counts), *cache_arguments(self.kv_cache), *threads])


def script() -> bytes:
    """Return the script that the phone runs."""
    return resources.files("builders.devices.farm_run").joinpath(SCRIPT).read_bytes()


def farm_folder(request: MeasureRequest) -> FarmFolder:
    """Return what goes to the phone, the script excepted.

    Raises:
        MeasurementError: the bundle is not one GGUF file.
        SetupError: there is no llama-bench for the phone.
    """
    manifest = request.bundle.manifest
    weights = [entry for entry in manifest.files if entry.path.endswith(".gguf")]
    if manifest.recipe.format != "gguf" or len(weights) != 1:
        raise MeasurementError(
            f"a farm's phone runs a bundle of one GGUF file, and this one is {manifest.recipe.name}",
            fix="measure a gguf bundle there, or this one on a phone of your own: phipack devices ls",
        )
    programs = dict(_programs(request.runtime))
    files = {MODEL: request.bundle.file(weights[0].path), **programs}
    bench = digest_of_file(programs[BENCH])
    return FarmFolder(files, weights[0].digest, bench, request.settings, manifest.recipe.kv_cache)


def _programs(runtime: Path | None) -> Iterator[tuple[str, Path]]:
    if runtime is None:
        raise SetupError("no runtime for the phone", fix=_FIX)
    if runtime.is_file():
        yield BENCH, runtime
        return
    bench = runtime / BENCH
    if not bench.is_file():
        raise SetupError(f"{runtime} has no {BENCH}", fix=_FIX)
    yield BENCH, bench
    for library in sorted(runtime.glob("lib*.so")):
        yield library.name, library
