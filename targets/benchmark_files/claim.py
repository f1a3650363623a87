"""A claim that a benchmark's run was of a certain bundle on a certain device, checked as far as the file goes.

A file that contradicts the claim is refused: another format, another size of the weights, another number of parameters,
another type of weights. What it does not say can't be checked, and that it agrees proves nothing: the measurement is
marked as a claim (`match: "claim"`) wherever it goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import ValidationError

from targets.benchmark_files.result import BenchmarkFileError, BenchmarkResult
from targets.devices import Target, load_targets
from targets.kv_cache import cache_types
from targets.measurement import DeviceEntry, Measurement
from targets.recipes import recipe_named

# llama.cpp counts a few small tensors more (rope factors), and a checkpoint's parameters are counted before conversion.
_SIZE_TOLERANCE = 0.005


@dataclass(frozen=True)
class ClaimedBundle:
    """What a bundle's manifest says of itself. `weight_bytes`: of all tensors. `kv_cache`: empty for the default."""

    digest: str
    recipe: str
    parameters: int
    weight_bytes: int
    kv_cache: str = ""


@dataclass(frozen=True)
class Claim:
    """What somebody says of a run, in addition to its file. `who`: whose claim it is, and from which file.

    `device`: what the device calls itself, such as iPhone15,4. `target` fills in what the device class knows.
    """

    who: str
    bundle: ClaimedBundle | None = None
    model: str | None = None
    recipe: str | None = None
    device: str | None = None
    os: str | None = None
    os_version: str | None = None
    soc: str | None = None
    target: Target | None = None


def claimed_measurement(result: BenchmarkResult, claim: Claim) -> Measurement:
    """Return a run as a measurement. Raises `BenchmarkFileError` where the file contradicts the claim."""
    if claim.bundle is not None:
        _check_bundle(result, claim.bundle)
    try:
        return _measurement(result, claim)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise BenchmarkFileError(f"{result.title}: {problem}", fix="correct what was said of the device") from error


def _measurement(result: BenchmarkResult, claim: Claim) -> Measurement:
    return Measurement(
        schema="phipack.measurement/1",
        match="claim",
        bundle=None if claim.bundle is None else claim.bundle.digest,
        claim=f"{claim.who}: {result.title}"[:500],
        model=(claim.model or result.model)[:500],
        recipe=claim.recipe or result.recipe if claim.bundle is None else claim.bundle.recipe,
        weights_bytes=result.model_bytes,
        device=_device(result, claim),
        runtime=result.runtime,
        settings=result.settings,
        figures=dict(result.figures),
        not_measured=dict(result.not_measured),
        throttled=None,
        source="import",
        tool=result.tool,
        taken=result.taken,
    )


def _check_bundle(result: BenchmarkResult, bundle: ClaimedBundle) -> None:
    recipe = recipe_named(bundle.recipe)
    if not result.formats:
        raise _contradiction(result, f"{result.runtime.name} loads no bundle", "import it without a bundle")
    if recipe.format not in result.formats:
        raise _contradiction(result, f"{result.runtime.name} does not load {recipe.format}, which {recipe.name} is")
    if result.recipe is not None and result.recipe != recipe.name:
        raise _contradiction(result, f"its weights are {result.weight_type} ({result.recipe}), not {recipe.name}")
    if result.recipe is None and result.formats == ("gguf",) and result.weight_type is not None:
        raise _contradiction(result, f"its weights are {result.weight_type}, not {recipe.name}")
    if result.weight_bits is not None and result.weight_bits != recipe.bits:
        raise _contradiction(
            result, f"its weights have {result.weight_bits} bits, those of {recipe.name} have {recipe.bits}"
        )
    own_cache = bundle.kv_cache or next(iter(cache_types(recipe)), None)
    if result.kv_cache is not None and result.kv_cache != own_cache:
        raise _contradiction(result, f"its KV cache is in {result.kv_cache}, the bundle's in {own_cache}")
    for what, stated, own in (
        ("bytes of weights", result.model_bytes, bundle.weight_bytes),
        ("parameters", result.parameters, bundle.parameters),
    ):
        if stated is not None and not math.isclose(stated, own, rel_tol=_SIZE_TOLERANCE):
            raise _contradiction(result, f"it has {stated:,} {what}, and the bundle has {own:,}")


def _contradiction(result: BenchmarkResult, why: str, fix: str = "name the bundle that was run") -> BenchmarkFileError:
    return BenchmarkFileError(f"{result.title} was not this bundle: {why}", fix=fix)


def _device(result: BenchmarkResult, claim: Claim) -> DeviceEntry:
    target = claim.target
    if result.device and claim.device and result.device != claim.device:
        raise BenchmarkFileError(
            f"the file is of {result.device}, not of {claim.device}",
            fix=f"leave the device out, or name {result.device}",
        )
    for what, stated, said in (
        ("the chip", result.soc, claim.soc),
        ("the operating system", result.os, claim.os),
        ("the system's version", result.os_version, claim.os_version),
    ):
        if stated and said and not _same_system(stated, said):
            raise BenchmarkFileError(f"{what} is {stated} in the file, not {said}", fix="leave it out, or correct it")
    chip = result.soc or claim.soc
    if target is not None and chip is not None and chip != target.soc:
        raise BenchmarkFileError(
            f"{target.name} has the {target.soc}, and the run was on the {chip}", fix="name a target with that chip"
        )
    if target is not None:
        _check_target(target, result.device or claim.device, claim.os or result.os)
    model = result.device or claim.device or (target.title if target is not None else None)
    system = claim.os or result.os or (target.os if target is not None else None)
    if model is None or system is None:
        missing, option = ("device", "--device MODEL") if model is None else ("operating system", "--os 'Android 14'")
        raise BenchmarkFileError(
            f"{result.title}: the file does not name the {missing}", fix=f"add {option}, or --target TARGET"
        )
    return DeviceEntry(
        model=model,
        soc=chip or (target.soc if target is not None else None),
        os=system,
        os_version=claim.os_version or result.os_version,
        target=None if target is None else target.name,
    )


def _check_target(target: Target, model: str | None, system: str | None) -> None:
    """Refuse a run of another device class: one with another operating system, or a device of another target."""
    if system is not None and not _same_system(system, target.os):
        raise BenchmarkFileError(
            f"{target.name} has {target.os}, and the run was on {system}", fix="name a target with that system"
        )
    others = [one.name for one in load_targets().values() if model in one.identifiers]
    if others and model not in target.identifiers:
        raise BenchmarkFileError(
            f"the run was on {model}, which is {others[0]}, not {target.name}", fix=f"name it: --target {others[0]}"
        )


def _same_system(one: str, other: str) -> bool:
    """Return whether two names are of one system: XCTest says iOS on iPads, too."""
    return one.casefold().replace("ipados", "ios") == other.casefold().replace("ipados", "ios")
