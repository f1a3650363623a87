"""Evidence of real bundles against their checkpoint: figures that can be checked another way, and refusals."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.reference import FloatReference
from builders.tokenizer import tokenizer_of
from builders.validation.measurement import compared
from builders.validation.sampled_texts import KINDS_OF_TEXT
from builders.validation.speed import measure_speed
from builders.validation.validate import check_before_building, validate
from registry.bundle.folder import Bundle, open_bundle
from targets.errors import BundleError, CheckpointError, MeasurementError
from targets.evaluation import EvaluationSettings, Suite
from targets.evidence import ACCURACY_FIGURES, FIGURES, Evidence
from targets.gates import Gate, judge
from targets.kv_cache import with_kv_cache
from targets.never_taken import never_taken
from targets.progress import Event, Notice, Step
from targets.recipes import recipe_named
from tests.support.checkpoints import write_tiny
from tests.support.validations import BRIEF, STEADY

TOWN = "the town in the morning " * 20


@pytest.fixture(scope="module")
def evidence(bundle: Bundle, tiny: Checkpoint) -> Evidence:
    return validate(bundle, tiny, BRIEF)


def test_a_float16_bundle_answers_like_its_checkpoint(evidence: Evidence) -> None:
    figures = {name: figure.value for name, figure in evidence.figures.items()}
    assert 0 <= figures["kl_median"] <= figures["kl_mean"] < 1e-4
    assert figures["kl_mean"] < figures["kl_max"] < 1e-2
    assert figures["same_top_share"] > 0.97
    assert figures["perplexity_ratio"] == pytest.approx(1, abs=1e-3)
    assert figures["greedy_match_share"] > 0.5
    assert figures["prefill_tokens_per_second"] > 10
    assert figures["decode_tokens_per_second"] > 10
    assert figures["peak_memory_bytes"] > 10 << 20


def test_every_figure_says_what_it_is(evidence: Evidence, bundle: Bundle, tiny: Checkpoint) -> None:
    measured = {name for name in FIGURES if not name.startswith(("predicted", "past_", "under_", "full_", "device_"))}
    assert set(evidence.figures) == {name for name in measured if never_taken(name, BRIEF) is None}
    for name, figure in evidence.figures.items():
        assert figure.unit == FIGURES[name][0]
        assert figure.kind == "measured"
    assert "llama.cpp" in evidence.figures["kl_mean"].on
    assert (evidence.bundle, evidence.checkpoint) == (bundle.digest, tiny.digest)
    assert evidence.recipe == "gguf-f16"
    assert "4 windows of 64 tokens" in evidence.text


def test_a_figure_of_the_reference_alone_is_not_the_runtimes(evidence: Evidence) -> None:
    assert evidence.figures["reference_perplexity"].on.endswith(", the checkpoint in float32")
    assert "llama.cpp" in evidence.figures["perplexity"].on
    found = compared({"empty_share": 0.5, "reference_empty_share": 0.25}, "suite quick", "a runtime")
    assert {name: one.on for name, one in found.items()} == {
        "empty_share": "suite quick, a runtime",
        "reference_empty_share": "suite quick, the checkpoint in float32",
    }


def test_the_size_is_that_of_all_files(evidence: Evidence, bundle: Bundle) -> None:
    size = sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())
    assert evidence.figures["artifact_bytes"].value == size


def test_evidence_survives_its_file(evidence: Evidence, tmp_path: Path) -> None:
    (tmp_path / "evidence.json").write_text(evidence.to_json(), "utf-8")
    assert Evidence.read(tmp_path / "evidence.json") == evidence


def test_an_infinite_divergence_survives_its_file_and_fails_its_gate(evidence: Evidence, tmp_path: Path) -> None:
    worst = evidence.figures["kl_max"].model_copy(update={"value": float("inf")})
    gates = judge({"kl_max": worst.value}, {"kl_max": Gate(at_most=1)}, asked_by="test")
    told = evidence.model_copy(update={"figures": {"kl_max": worst}, "gates": gates})
    (tmp_path / "evidence.json").write_text(told.to_json(), "utf-8")
    read = Evidence.read(tmp_path / "evidence.json")
    assert read == told
    assert read.gates[0].value == float("inf")
    assert not read.passed


@pytest.mark.usefixtures("in_this_process")
def test_a_coarser_recipe_is_seen_to_be_coarser(evidence: Evidence, tiny: Checkpoint, tmp_path: Path) -> None:
    coarse = validate(build(tiny, recipe_named("gguf-q4_0"), tmp_path / "q4_0"), tiny, BRIEF)
    assert coarse.figures["kl_mean"].value > 100 * evidence.figures["kl_mean"].value
    assert coarse.figures["same_top_share"].value < evidence.figures["same_top_share"].value
    assert coarse.figures["artifact_bytes"].value < evidence.figures["artifact_bytes"].value


def test_other_weights_are_seen(bundle: Bundle, tmp_path: Path) -> None:
    """The same shape with other numbers: what a mixed-up artifact would look like."""
    other = open_checkpoint(write_tiny(tmp_path / "other", seed=1))
    with pytest.raises(MeasurementError, match="was built from checkpoint sha256:"):
        validate(bundle, other, BRIEF)


def test_the_reference_reading_a_continuation_says_what_it_would_have_written(tiny: Checkpoint) -> None:
    reference = FloatReference(tiny)
    prompts = np.random.default_rng(0).integers(0, 300, size=(3, 8))
    written = reference.greedy(prompts, 5)
    read = reference.likeliest(np.concatenate([prompts, written[:, :-1]], axis=1))[:, 7:]
    np.testing.assert_array_equal(read, written)


def test_a_changed_bundle_is_not_measured(bundle: Bundle, tiny: Checkpoint, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "changed"))
    content = bytearray((folder / "model.gguf").read_bytes())
    content[-1] ^= 1
    (folder / "model.gguf").write_bytes(content)
    with pytest.raises(BundleError, match="content differs"):
        validate(open_bundle(folder), tiny, BRIEF)


def test_a_text_too_short_is_refused(bundle: Bundle, tiny: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short", "utf-8")
    with pytest.raises(MeasurementError, match="the evaluation text has"):
        validate(bundle, tiny, EvaluationSettings(text=tmp_path / "short.txt"))


def test_progress_ends_where_it_should(bundle: Bundle, tiny: Checkpoint) -> None:
    last: dict[str, Step] = {}

    def receive(event: Event) -> None:
        if isinstance(event, Step):
            last[event.name] = event

    validate(bundle, tiny, BRIEF, on_progress=receive)
    assert set(last) == {"oracle", "open", "reference", "compare", "generate", "speed"}
    assert all(step.done == step.total > 0 for step in last.values())
    assert {step.subject for step in last.values()} == {bundle.manifest.recipe.name}


def test_speed_of_a_bundle_that_cannot_run_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "broken"))
    (folder / "model.gguf").write_bytes(b"nothing")
    with pytest.raises(MeasurementError, match=r"model\.gguf"):
        measure_speed(open_bundle(folder))


@pytest.mark.usefixtures("in_this_process")
def test_a_speed_whose_runs_disagree_is_no_figure(
    bundle: Bundle, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builders.validation.speed.MOST_SPREAD", 0.25)
    noisy = replace(STEADY, decode=(184.0, 16.9, 120.0), other_load=1.8)
    monkeypatch.setattr("builders.validation.validate.measure_speed", lambda _: noisy)
    said: list[Event] = []
    found = validate(bundle, tiny, BRIEF, on_progress=said.append)
    assert found.figures["prefill_tokens_per_second"].value == 105
    assert "median of 3 within 10%, 1.8 processors busy" in found.figures["prefill_tokens_per_second"].on
    assert "decode_tokens_per_second" not in found.figures
    notices = [event.text for event in said if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "decode_tokens_per_second is not measured: runs of 184 16.9 120 token/s disagree" in notices[0]
    assert found.details is not None
    assert [(runs.values, runs.spread) for runs in found.details.speed] == [
        (noisy.prefill, pytest.approx(10 / 105)),
        (noisy.decode, pytest.approx(167.1 / 120)),
    ]


def test_speed_names_a_broken_manifest(tmp_path: Path, bundle: Bundle) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "broken"))
    opened = open_bundle(folder)
    (folder / "manifest.json").write_bytes(b"{}")
    with pytest.raises(MeasurementError, match="not a bundle manifest"):
        measure_speed(opened)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(("context", "first", "last"), [(768, 257, 768), (300, 1, 300)])
def test_a_quantized_cache_is_measured_where_it_is_full(tmp_path: Path, context: int, first: int, last: int) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", hidden=128, context=context, dtype="F16"))
    found = {}
    for cache in ("f16", "q8_0", "q4_0"):
        recipe = with_kv_cache(recipe_named("gguf-f16"), cache)
        bundle = build(checkpoint, recipe, tmp_path / cache, context_length=context)
        found[cache] = validate(bundle, checkpoint, BRIEF).figures
    assert not any(name.startswith("full_cache") for name in found["f16"])
    end = found["q8_0"]["full_cache_kl_mean"]
    assert end.on.startswith(f"tokens {first} to {last} of one sequence of the built-in text, llama.cpp")
    assert found["f16"]["kl_mean"].value < found["q8_0"]["kl_mean"].value < 1e-4
    assert end.value < 1e-4
    assert found["q4_0"]["full_cache_kl_mean"].value > 10 * end.value
    assert {"full_cache_kl_mean", "full_cache_same_top_share", "full_cache_perplexity_ratio"} <= ACCURACY_FIGURES


@pytest.mark.usefixtures("in_this_process")
def test_a_quantized_cache_that_the_text_can_not_fill_is_no_failure(tmp_path: Path) -> None:
    """The context is longer than the windows; the text is not."""
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", hidden=128, context=512, dtype="F16"))
    bundle = build(checkpoint, with_kv_cache(recipe_named("gguf-f16"), "q8_0"), tmp_path / "b")
    tokens = len(tokenizer_of(checkpoint).encode(TOWN))
    (tmp_path / "short.txt").write_text(TOWN, "utf-8")
    settings = replace(BRIEF, text=tmp_path / "short.txt", tokens=tokens, window=tokens, suite="behaviour")
    found = validate(bundle, checkpoint, settings)
    assert not any(name.startswith("full_cache") for name in found.figures)
    assert found.details is not None
    assert [check for check in found.details.checks if check.group == "cache"] == []
    assert "neither context nor text" in next(one.reason for one in found.details.not_run if one.group == "cache")


@pytest.mark.usefixtures("in_this_process")
def test_the_speed_of_a_short_context_says_how_few_tokens_it_was_measured_on(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", context=40, dtype="F16"))
    bundle = build(checkpoint, recipe_named("onnx-fp16"), tmp_path / "b")
    settings = replace(BRIEF, tokens=64, window=32, greedy_prompts=1)
    assert "20 tokens in, 20 out" in validate(bundle, checkpoint, settings).figures["peak_memory_bytes"].on


@pytest.mark.parametrize("suite", ["quick", "accuracy"])
def test_a_check_before_building_needs_the_text_that_the_suite_reads(
    suite: Suite, tiny: Checkpoint, tmp_path: Path
) -> None:
    """1,024 tokens are enough for `quick`, whatever the settings ask for."""
    (tmp_path / "mine.txt").write_text("the town in the morning " * 220, "utf-8")
    assert 1024 < len(tokenizer_of(tiny).encode((tmp_path / "mine.txt").read_text("utf-8"))) < 4000
    settings = EvaluationSettings(text=tmp_path / "mine.txt", tokens=4096, suite=suite)
    if suite == "quick":
        check_before_building(tiny, settings, 512, cache=tmp_path / "cache")
        return
    with pytest.raises(MeasurementError, match="the evaluation text has"):
        check_before_building(tiny, settings, 512, cache=tmp_path / "cache")


def test_a_template_that_fails_on_a_suites_conversations_is_refused_before_building(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> str:
        raise CheckpointError("the chat template fails", fix="correct it")

    monkeypatch.setattr("builders.validation.sampled_texts.render_conversation", fails)
    check_before_building(tiny, replace(BRIEF, suite="accuracy"), 512, cache=tmp_path / "cache")
    with pytest.raises(CheckpointError, match="the chat template fails"):
        check_before_building(tiny, replace(BRIEF, suite="quick"), 512, cache=tmp_path / "cache")


def test_memory_is_that_of_the_whole_context_whatever_short_sequences_are_opened_with(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", original_context=256, context=32768, dtype="F16"))
    recipe = recipe_named("gguf-f16")
    short = build(checkpoint, recipe, tmp_path / "short", context_length=256)
    long = build(checkpoint, recipe, tmp_path / "long", context_length=32768)
    cache_bytes = checkpoint.architecture.kv_cache_bytes(32768 - 256)
    grown = measure_speed(long).peak_memory_bytes - measure_speed(short).peak_memory_bytes
    assert grown > 0.8 * cache_bytes


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(("suite", "tokens"), [("quick", 256), ("full", 1024)])
def test_a_suite_reads_texts_of_several_kinds_and_gates_the_worst(
    bundle: Bundle, tiny: Checkpoint, suite: Suite, tokens: int, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("the town in the morning " * 40, "utf-8")
    settings = replace(BRIEF, suite=suite, text=tmp_path / "mine.txt")
    found = validate(bundle, tiny, settings)
    details = found.details
    assert details is not None
    assert details.suite == suite
    names = ["mine.txt", *KINDS_OF_TEXT] if tiny.chat_template else ["mine.txt", *KINDS_OF_TEXT[:-1]]
    assert [each.text for each in details.texts] == names
    assert [each.tokens for each in details.texts] == [256, *[tokens] * (len(names) - 1)]
    for text in details.texts[1:]:
        assert found.figures[f"{text.text}_kl_mean"].value == pytest.approx(text.kl_mean)
        assert f"{tokens} tokens of the built-in text {text.text}" in found.figures[f"{text.text}_kl_mean"].on
    assert found.figures["worst_text_kl_mean"].value == max(text.kl_mean for text in details.texts)
    assert {"worst_text_kl_mean", "chinese_kl_mean"} <= ACCURACY_FIGURES
    assert not [name for name in found.figures if never_taken(name, settings)]
    assert sum(each.tokens for each in details.classes) <= sum(each.tokens for each in details.texts) - 4
    assert [(each.first, each.last, each.tokens) for each in details.positions] == [(1, 16, 64), (17, 64, 192)]


def test_accuracy_alone_reads_the_texts_of_no_suite(evidence: Evidence) -> None:
    assert evidence.details is not None
    (text,) = evidence.details.texts
    assert (text.text, text.tokens) == ("english", 256)
    assert text.kl_mean == evidence.figures["kl_mean"].value
    assert text.kl_standard_error == evidence.figures["kl_standard_error"].value > 0
    assert text.perplexity_ratio == evidence.figures["perplexity_ratio"].value
    assert text.prediction is not None
    assert text.prediction.perplexity == evidence.figures["perplexity"].value
    assert text.prediction.reference_perplexity == evidence.figures["reference_perplexity"].value
    assert Evidence.parse(evidence.to_json().encode(), source="here") == evidence
    assert "worst_text_kl_mean" not in evidence.figures


@pytest.mark.usefixtures("in_this_process")
def test_the_full_suite_reads_across_the_edges_and_marks_them(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", window=192, context=1024, dtype="F16"))
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle")
    details = validate(bundle, checkpoint, replace(BRIEF, suite="full")).details
    assert details is not None
    within = [each for each in details.positions if each.last <= 192]
    past = [each for each in details.positions if each.first > 192]
    assert [(each.first, each.last) for each in within] == [(1, 16), (17, 64), (65, 192)]
    assert [(each.first, each.last) for each in past] == [(193, 512), (513, 704)]
    assert {each.where for each in within} == {""}
    assert {each.where for each in past} == {"past the sliding window"}
    assert details.reach is not None
    assert (details.reach.context_length, details.reach.sliding_window) == (1024, 192)
    assert details.reach.rope == "plain, base 10,000"
    assert min(each.kl_mean for each in past) > 10 * max(each.kl_mean for each in within)  # llama.cpp ignores it
