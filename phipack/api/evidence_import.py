"""Measurements of bundles on devices: from benchmarks of other projects, and from files of phipack's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from phipack.api.arguments import AnyPath, as_path, as_recipe, as_target
from registry.bundle.manifest import Manifest
from targets.benchmark_files import Claim, claimed_measurement, read_benchmark
from targets.benchmark_files.claim import ClaimedBundle
from targets.benchmark_files.formats import FORMATS
from targets.bounded_file import TooLargeError, read_at_most
from targets.device_evidence import counts_for
from targets.devices import Target
from targets.errors import MeasurementError, did_you_mean
from targets.measurement import BYTES_LIMIT, MEASUREMENT_SCHEMA, Measurement
from targets.this_user import user_name


def import_measurements(  # noqa: PLR0913 - the public face
    files: Iterable[AnyPath],
    *,
    manifest: Manifest | None = None,
    format: str | None = None,  # noqa: A002 - the word for it
    select: str | None = None,
    target: AnyPath | Target | None = None,
    device: str | None = None,
    os: str | None = None,
    soc: str | None = None,
    model: str | None = None,
    recipe: str | None = None,
) -> tuple[Measurement, ...]:
    """Read measurements from files: outputs of benchmarks, and what `phipack measure` wrote.

    Args:
        files: of llama-bench, onnxruntime-genai, AI Hub (`perf.yaml`), ExecuTorch or XCTest, or phipack's own.
        manifest: of the bundle that a benchmark ran, as you claim. A file that contradicts the claim is refused.
        format: a file's format, found by its content by default.
        select: read runs whose title has this text: a part of a model, device or backend.
        target: the device that it ran on: fills in chip and operating system.
        device: what the device calls itself, such as `iPhone15,4`.
        os: its operating system, such as `iOS 18.1`.
        soc: its chip, such as `Apple A16`.
        model: the model's name, where the file has another.
        recipe: how its weights are stored, for a run of no bundle.

    Raises:
        MeasurementError: a file is malformed, contradicts the claim, or does not say what device it is of.
    """
    if format is not None and format not in FORMATS:
        raise MeasurementError(f"unknown format {format!r}", fix=did_you_mean(format, FORMATS))
    system, _, version = (os or "").partition(" ")
    claim = Claim(
        who="",
        bundle=None if manifest is None else _claimed(manifest),
        model=model,
        recipe=None if recipe is None else as_recipe(recipe).name,
        device=device,
        os=system or None,
        os_version=version or None,
        soc=soc,
        target=None if target is None else as_target(target),
    )
    found = [one for file in files for one in _read(as_path(file), claim, format, select)]
    if not found:
        raise MeasurementError("no run has this text", fix="leave --select out to see all runs")
    return tuple(found)


def _read(path: Path, claim: Claim, format_name: str | None, select: str | None) -> list[Measurement]:
    try:
        raw = read_at_most(path, BYTES_LIMIT)
    except OSError as error:
        raise MeasurementError(f"{path}: can't be read: {error.strerror}", fix="use the path of a file") from error
    except TooLargeError as error:
        raise MeasurementError(f"{path}: more than {BYTES_LIMIT:,} bytes", fix="use the path of a benchmark") from error
    if format_name is None and MEASUREMENT_SCHEMA.encode() in raw:
        own = Measurement.parse(raw, source=str(path))
        _check_said(own, claim, path.name)
        own = _of_bundle(own, claim.bundle, path.name)
        return [own] if select is None or select.lower() in own.on.lower() else []
    digest = hashlib.sha256(raw).hexdigest()[:12]
    named = replace(claim, who=f"{user_name()}, {path.name} (sha256:{digest})")
    runs = [one for one in read_benchmark(path, format_name) if select is None or select.lower() in one.title.lower()]
    return [claimed_measurement(one, named) for one in runs]


def _check_said(own: Measurement, claim: Claim, source: str) -> None:
    """Refuse what is said of a measurement of phipack's own, which says itself what it is of, and says otherwise."""
    device = own.device
    pairs = (
        ("--device", claim.device, device.model),
        ("--os", claim.os, device.os),
        ("--os", claim.os_version, device.os_version),
        ("--soc", claim.soc, device.soc),
        ("--model", claim.model, own.model),
        ("--recipe", claim.recipe, own.recipe),
    )
    for option, said, stated in pairs:
        if said is not None and said != stated:
            raise MeasurementError(f"{source} says {stated or 'nothing'}, not {said}", fix=f"leave {option} out")
    if claim.target is not None and not counts_for(own, claim.target):
        raise MeasurementError(
            f"{source} is of {device.model} with {device.soc or 'an unknown chip'}, not of {claim.target.name}",
            fix="leave --target out: it counts for each target with its device or chip",
        )


def _of_bundle(own: Measurement, bundle: ClaimedBundle | None, source: str) -> Measurement:
    """Return a measurement of the bundle: the one that it names, or that a claim without a bundle is extended to."""
    if bundle is None or own.bundle == bundle.digest:
        return own
    if own.bundle is not None or (own.recipe is not None and own.recipe != bundle.recipe):
        raise MeasurementError(
            f"{source} is of {own.bundle or own.recipe}, not of {bundle.digest}, {bundle.recipe}",
            fix="name the bundle that was measured",
        )
    return own.model_copy(update={"bundle": bundle.digest, "claim": f"{user_name()}, {source}: {own.claim}"[:500]})


def _claimed(manifest: Manifest) -> ClaimedBundle:
    return ClaimedBundle(
        digest=manifest.digest,
        recipe=manifest.recipe.name,
        parameters=manifest.model.parameters,
        weight_bytes=sum(kind.bytes for kind in manifest.recipe.weights),
        kv_cache=manifest.recipe.kv_cache,
    )
