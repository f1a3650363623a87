"""The suite as `validate` runs it, and what becomes of its checks."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.reference import FloatReference
from builders.reference.rounded import rounded_logits
from builders.runtime.sessions import open_session
from builders.runtime.text_engines import open_text_engines
from builders.validation.behaviour.cache import check_cache
from builders.validation.behaviour.edges import check_edges
from builders.validation.behaviour.findings import Findings
from builders.validation.behaviour.ids import check_ids
from builders.validation.behaviour.subject import NO_ADDED, compared_lengths
from builders.validation.behaviour.yardstick import distance, fewest_bits
from builders.validation.speed import Speed
from builders.validation.validate import validate
from phipack.commands.validation import checks_text, evidence_text
from registry.bundle.folder import Bundle
from targets.evaluation import EvaluationSettings
from targets.evidence import FIGURES, Evidence, Figure, judge_figures
from targets.evidence_details import Check, Details, NotRun
from targets.gates import Gate
from targets.kv_cache import with_kv_cache
from targets.recipes import recipe_named
from tests.support.checkpoints import write_tiny
from tests.support.mutants import Nursery, subject_of

BRIEF = EvaluationSettings(
    tokens=128, window=64, greedy_prompts=1, greedy_prompt_tokens=8, greedy_new_tokens=2, suite="quick"
)
FAILED = Check(group="ids", name="stop id 7 ends an answer", passed=False, detail="id 7 does not end an answer")


@pytest.fixture(scope="module")
def evidence(bundle: Bundle, tiny: Checkpoint) -> Evidence:
    """Measured with the bundle in a process of its own, as a command does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builders.validation.validate.measure_speed", lambda _: Speed((1.0,), (1.0,), 1, 0.0))
        return validate(bundle, tiny, BRIEF)


def test_validate_runs_it_when_asked(evidence: Evidence) -> None:
    details = evidence.details
    assert details is not None
    assert details.suite == "quick"
    assert {check.group for check in details.checks} == {"edges", "ids", "template", "degeneration"}
    assert all(check.passed for check in details.checks)
    assert len({(check.group, check.name) for check in details.checks}) == len(details.checks)
    assert evidence.figures["behaviour_checks"].value == len(details.checks)
    assert evidence.figures["behaviour_failed_checks"].value == 0
    assert (
        {"loop_share", "reference_loop_share", "endless_share", "empty_share"} <= set(evidence.figures) <= set(FIGURES)
    )
    assert len(details.answers) == 8


def test_its_evidence_survives_its_file(evidence: Evidence, tmp_path: Path) -> None:
    (tmp_path / "evidence.json").write_text(evidence.to_json(), "utf-8")
    assert Evidence.read(tmp_path / "evidence.json") == evidence


def test_a_failed_check_fails_the_evidence_unless_a_gate_allows_it(evidence: Evidence) -> None:
    gates = judge_figures(evidence.figures, {"kl_mean": Gate(at_most=1)}, asked_by="test")
    sound = evidence.model_copy(update={"gates": gates})
    assert sound.passed
    assert evidence.details is not None
    count = Figure(value=1, unit="1", kind="measured", on="suite quick")
    failed = sound.model_copy(
        update={
            "figures": evidence.figures | {"behaviour_failed_checks": count},
            "details": evidence.details.model_copy(update={"checks": (FAILED,)}),
        }
    )
    assert not failed.passed
    assert failed.shortcomings == ["ids: stop id 7 ends an answer: id 7 does not end an answer"]
    assert failed.model_copy(update={"details": None}).shortcomings == ["1 checks of the behaviour suite failed"]
    allowed = judge_figures(failed.figures, {"behaviour_failed_checks": Gate(at_most=1)}, asked_by="test")
    assert failed.model_copy(update={"gates": [*gates, *allowed]}).passed


def test_failed_checks_are_shown_first_and_the_others_counted(evidence: Evidence) -> None:
    passed = [Check(group=group, name=f"{n}", passed=True) for group in ("ids", "edges") for n in range(3)]
    skipped = NotRun(group="edges", name="at the context's end", reason="too long")
    text = checks_text(Details(suite="quick", checks=(*passed, FAILED), not_run=(skipped,)))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[-4:] == [
        "ids stop id 7 ends an answer FAIL id 7 does not end an answer",
        "ids 3 checks pass",
        "edges 3 checks pass",
        "edges at the context's end not run too long",
    ]
    assert "checks" in evidence_text(evidence)


def test_lengths_around_edges_are_compared_as_far_as_they_are_read() -> None:
    edges = {"the sliding window": 40, "the context's end": 100}
    assert list(compared_lengths(edges, 100, 100)) == [39, 40, 41, 42, 43, 99, 100]
    assert list(compared_lengths(edges, 100, 50)) == [39, 40, 41, 42, 43]
    assert list(compared_lengths({"the context's end": 1}, 1, 50)) == [1]


def test_the_yardstick_grows_with_fewer_bits(tiny: Checkpoint) -> None:
    tokens = np.random.default_rng(0).integers(0, 300, 24)
    reference = FloatReference(tiny)
    expected = reference.logits(reference.hidden(tokens[None])[0])
    found = [distance(expected, rounded_logits(tiny, tokens, bits), [310]).kl_mean for bits in (16, 8, 6, 4)]
    assert 0 < found[0] < found[1] / 100
    assert all(8 * one < other for one, other in itertools.pairwise(found[1:]))  # a bit is a factor of 4


def test_the_coarsest_storage_counts(nursery: Nursery) -> None:
    manifest = nursery.bundle("llama", "gguf-f16").manifest
    assert fewest_bits(manifest) == 16

    def stored(*labels: str, kv_cache: str = "") -> int:
        weights = [manifest.recipe.weights[0].model_copy(update={"storage": label}) for label in labels]
        recipe = manifest.recipe.model_copy(update={"weights": weights, "kv_cache": kv_cache})
        return fewest_bits(manifest.model_copy(update={"recipe": recipe}))

    assert stored("float32", "table of 16 for 8 rows") == 4
    assert stored("float32", "3072 rows uint4 block 32, 1024 rows int8 block 128", "int8 block 64") == 4
    assert stored("F16", kv_cache="q8_0") == 8


def test_a_quantized_cache_must_be_measured(tmp_path: Path, nursery: Nursery) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", hidden=128, context=300, dtype="F16"))
    bundle = build(checkpoint, with_kv_cache(recipe_named("gguf-f16"), "q8_0"), tmp_path / "b")
    with subject_of(nursery.bundle("llama", "gguf-f16"), nursery.sound("llama")) as subject:
        assert check_cache(subject, (), 300).checks == []
        own = replace(subject, bundle=bundle)
        (missing,) = check_cache(own, ("full_cache_kl_mean",), 300).checks
        assert not missing.passed
        names = ("full_cache_kl_mean", "full_cache_same_top_share", "full_cache_perplexity_ratio")
        assert [check.passed for check in check_cache(own, names, 300).checks] == [True]
        assert "neither context nor text is longer" in check_cache(own, (), None).not_run[0].reason


def test_added_tokens_are_not_said_to_be_right_where_there_are_none(nursery: Nursery) -> None:
    sound = nursery.sound("llama")
    without = replace(sound, truth=replace(sound.truth, added={}))
    bundle = nursery.bundle("llama", "gguf-f16")
    with subject_of(bundle, without) as subject, open_text_engines(bundle) as engines:
        found = [check_ids(subject, engines), check_edges(subject)]
    reasons = {one.name: one.reason for each in found for one in each.not_run if one.reason == NO_ADDED}
    assert set(reasons) == {"log-probabilities of special tokens there"} | {
        f"{engine.name}: added tokens and their ids" for engine in engines
    }
    assert not [check.name for each in found for check in each.checks if re.search("added|special", check.name)]


def test_what_is_no_number_is_not_within_a_bound() -> None:
    findings = Findings("edges")
    findings.within("KL", float("nan"), 1.0, "nat")
    findings.equal("text", "a" * 300 + "b", "a" * 300 + "c")
    assert [check.passed for check in findings.checks] == [False, False]
    assert "ab" in findings.checks[1].detail
    assert "ac" in findings.checks[1].detail


@pytest.mark.parametrize("recipe", ["gguf-f16", "onnx-fp16", "coreml-fp16"])
def test_a_sequence_can_be_continued_by_several_tokens(recipe: str, nursery: Nursery) -> None:
    tokens = nursery.sound("llama").tokens[:40]
    with open_session(nursery.bundle("llama", recipe)) as session:
        whole = session.prefill(tokens)
        session.prefill(tokens[:7])
        session.extend(tokens[7:30])
        np.testing.assert_allclose(session.extend(tokens[30:]), whole, atol=0.02)
