"""A release whose gate asks for a device: not met until somebody has measured the bundle that it built."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.build_cache import BuildCache
from builders.checkpoint import Checkpoint
from builders.release import CellOutcome, Release
from devtools.bundles import make_evidence
from registry.bundle.folder import Bundle
from registry.store.folder import FolderStore
from registry.store.measurements import add_measurements
from targets.devices import target_named
from targets.evaluation import EvaluationSettings
from targets.evidence import Evidence
from targets.gates import Gate
from targets.project import Cell
from targets.recipes import recipe_named
from tests.support.measurements import measurement

FIGURE = "device_decode_tokens_per_second"


@pytest.fixture
def release(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """A release that builds, and takes its accuracy as measured."""

    def validate(bundle: Bundle, *_: object, **__: object) -> Evidence:
        return make_evidence(bundle)

    monkeypatch.setattr("builders.matrix.work.validate", validate)
    monkeypatch.setattr("builders.matrix.work.check_before_building", lambda *_, **__: None)
    store, cache = FolderStore(tmp_path / "store"), BuildCache(tmp_path / "work")
    return Release(tiny, EvaluationSettings(), cache, store, lambda *_: None)


def outcome(release: Release, *, accept_claims: bool = False, target: str = "iphone-14-pro") -> CellOutcome:
    gate = Gate(at_least=12, on="device", accept_claims=accept_claims)
    gates = {"project": {"kl_mean": Gate(at_most=1.0), FIGURE: gate}}
    cell = Cell("phone", target_named(target), recipe_named("gguf-q8_0"), 256, gates)
    plan = release.plan((cell,))[0]
    assert plan.problem is None  # what is not measured yet is no reason not to build
    (found,) = release.run((cell,))
    return found


def test_the_gate_is_met_by_a_measurement_of_this_bundle_on_this_chip(release: Release) -> None:
    first = outcome(release)
    (failure,) = first.failures
    assert failure.problem == (
        f"{FIGURE} is not known, must be >= 12 (asked by project); not measured on a device with this chip: "
        "phipack measure BUNDLE --device DEVICE, then phipack evidence import FILE --bundle BUNDLE"
    )
    assert first.manifest is not None
    digest = first.manifest.digest
    add_measurements(release.store, digest, [measurement(99.0, bundle=digest, model="Pixel 10", soc="Tensor G5")])
    assert outcome(release).problem is not None  # another chip's
    add_measurements(release.store, digest, [measurement(13.0, bundle=digest)])
    passed = outcome(release)
    assert (passed.problem, passed.built, passed.measured) == (None, False, False)
    assert passed.evidence is not None
    figure = passed.evidence.figures[FIGURE]
    assert (figure.value, figure.kind) == (13.0, "measured")
    assert figure.on == "iPhone15,4, iOS 18.1, llama.cpp b6500, temperature not known"
    assert Evidence.parse(passed.evidence.to_json().encode(), source="evidence") == passed.evidence
    slow = measurement(11.0, bundle=digest, day=2)
    add_measurements(release.store, digest, [slow])
    assert [failure.problem for failure in outcome(release).failures] == [
        f"{FIGURE} is 11, must be >= 12 (asked by project)"
    ]


def test_a_claim_passes_where_the_gate_accepts_it(release: Release) -> None:
    digest = (outcome(release).manifest or pytest.fail("not built")).digest
    add_measurements(release.store, digest, [measurement(12.5, bundle=digest, match="claim")])
    refused = outcome(release)
    assert "there is only a claim, of 12.5" in refused.failures[0].problem
    accepted = outcome(release, accept_claims=True)
    assert accepted.problem is None
    assert accepted.evidence is not None
    assert accepted.evidence.figures[FIGURE].kind == "claimed"
