"""What a validation is predicted to read and write is what one then reads and writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.reference.continuations import Continuations
from builders.runtime.isolation import IsolatedSession
from builders.tokenizer import Tokenizer, tokenizer_of
from builders.validation.amounts import Amounts, PlannedLengths, Validation
from builders.validation.answers import SAMPLES, AnswerSample, prompt_ids
from builders.validation.compare import Comparison
from builders.validation.text import read_text
from builders.validation.validate import validate
from registry.bundle.folder import Bundle
from targets.evaluation import SUITES, EvaluationSettings, Suite
from targets.kv_cache import with_kv_cache
from targets.recipes import recipe_named
from tests.support.cases import cases
from tests.support.checkpoints import SPECIAL, Tiny, random_weights, write_tiny, write_weights
from tests.support.task_files import HEADER, PROMPTS, QUESTION, write

LONGROPE = Tiny(context=640, original_context=256)
FURTHER = {
    "full-cache": ("gguf-f16", "q8_0", Tiny(hidden=128, context=300)),
    "longrope-gguf": ("gguf-f16", "", LONGROPE),
    "coreml": ("coreml-fp16", "", Tiny(context=512)),
}
SETTINGS = EvaluationSettings(tokens=128, window=64, greedy_prompts=2, greedy_prompt_tokens=8, greedy_new_tokens=4)


def endless(folder: Path, tiny: Tiny) -> Checkpoint:
    """Write a checkpoint that never ends an answer: the logits of its special tokens are 0, and others are larger."""
    write_tiny(folder, tiny)
    weights = random_weights(tiny.config())
    weights["lm_head.weight"][list(SPECIAL.values())] = 0
    write_weights(folder, weights)
    return open_checkpoint(folder)


@dataclass(frozen=True)
class ExactSizes:
    """Sizes by the checkpoint's own tokenizer and the bundle's template."""

    bundle: Bundle
    tokenizer: Tokenizer
    has_chat: bool = True

    @property
    def text_tokens(self) -> int:
        return len(self.tokenizer.encode(read_text(None)))

    def plain(self, text: str) -> int:
        return len(self.tokenizer.encode("", add_special_tokens=True)) + len(self.tokenizer.encode(text))

    def turn(self, prompt: str) -> int:
        return len(prompt_ids(self.bundle, self.tokenizer, prompt))


class Counting(IsolatedSession):
    """A session that counts what it is asked to read, and what it writes."""

    counted: Amounts

    def _ask(self, what: str, tokens: Any) -> Any:
        self.counted.bundle[len(tokens)] += 1
        return super()._ask(what, tokens)

    def _each(self, request: dict[str, Any], count: int, read: Callable[[], Any]) -> Iterator[Any]:
        asked = request.get("windows") or request.get("prompts") or [request["tokens"]]
        self.counted.bundle.update(map(len, asked))
        for answer in super()._each(request, count, read):
            self.counted.written += len(answer) if request["ask"] == "continue_each" else 0
            yield answer


@pytest.fixture(autouse=True)
def few_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers to few prompts, and short ones: on both sides of the comparison."""
    for suite in SAMPLES:
        monkeypatch.setitem(SAMPLES, suite, AnswerSample(prompts=2, tokens=12, evaluated_tokens=6))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Amounts:
    """What is read and written from now on, by both."""
    found = Amounts()

    def wrap(place: str, note: Callable[[Any, Any], None]) -> None:
        module, _, name = place.rpartition(".")
        original = getattr(__import__(module, fromlist=[name]), name)

        def noting(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            note(arguments, result)
            return result

        monkeypatch.setattr(place, noting)

    def answered(arguments: Any, result: Any) -> None:
        found.reference.update(map(len, arguments[1]))
        found.written_by_reference += sum(map(len, result))

    wrap("builders.reference.logits.hidden_states", lambda a, _: found.reference.update({a[2].shape[1]: len(a[2])}))
    wrap("builders.validation.behaviour.yardstick.rounded_logits", lambda a, _: found.reference.update([len(a[1])]))
    wrap("builders.validation.answers.reference_answers", answered)
    read, add = Continuations._read, Comparison.add

    def continued(self: Continuations, new: dict[int, list[int]]) -> None:
        words = self._words
        found.reference.update(len(words[number].prompt) + len(ids) - 1 for number, ids in new.items())
        read(self, new)

    def compared(self: Comparison, expected: Any, given: Any, *rest: Any, **options: Any) -> None:
        found.compared += len(given)
        add(self, expected, given, *rest, **options)

    monkeypatch.setattr(Continuations, "_read", continued)
    monkeypatch.setattr(Comparison, "add", compared)
    session = type("Counted", (Counting,), {"counted": found})
    for module in ("validate", "stretches"):
        monkeypatch.setattr(f"builders.validation.{module}.open_isolated", session)
    return found


def predicted(bundle: Bundle, checkpoint: Checkpoint, settings: EvaluationSettings) -> Amounts:
    recipe = recipe_named(bundle.manifest.recipe.name)
    if bundle.manifest.recipe.kv_cache:
        recipe = with_kv_cache(recipe, bundle.manifest.recipe.kv_cache)
    context = bundle.manifest.model.context_length
    lengths = PlannedLengths.of_recipe(checkpoint.architecture, recipe, context)
    sizes = ExactSizes(bundle, tokenizer_of(checkpoint))
    own = recipe.format != "coreml"
    return Validation(settings, checkpoint.architecture, recipe, lengths, sizes, is_own_runtime=own).amounts()


def assert_same(found: Amounts, expected: Amounts) -> None:
    assert +found.reference == +expected.reference
    assert _tokens_of(found.bundle) == _tokens_of(expected.bundle)
    assert (found.compared, found.written, found.written_by_reference) == (
        expected.compared,
        expected.written,
        expected.written_by_reference,
    )


@pytest.mark.parametrize("suite", cases({suite: suite for suite in SUITES}, {"accuracy", "behaviour"}))
def test_every_suite_reads_and_writes_what_was_predicted(tmp_path: Path, counted: Amounts, suite: Suite) -> None:
    checkpoint = endless(tmp_path / "checkpoint", Tiny(context=600, window=400))
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle")  # exact up to the window
    settings = replace(SETTINGS, suite=suite)
    validate(bundle, checkpoint, settings, cache=tmp_path / "cache")
    assert_same(counted, predicted(bundle, checkpoint, settings))


@pytest.mark.parametrize(("recipe", "kv_cache", "tiny"), cases(FURTHER, {"longrope-gguf", "coreml"}))
def test_in_every_runtime(tmp_path: Path, counted: Amounts, recipe: str, kv_cache: str, tiny: Tiny) -> None:
    checkpoint = endless(tmp_path / "checkpoint", tiny)
    chosen = with_kv_cache(recipe_named(recipe), kv_cache) if kv_cache else recipe_named(recipe)
    bundle = build(checkpoint, chosen, tmp_path / "bundle")
    settings = replace(SETTINGS, suite="quick")
    validate(bundle, checkpoint, settings, cache=tmp_path / "cache")
    assert_same(counted, predicted(bundle, checkpoint, settings))


def test_questions_and_prompts_of_folders(tmp_path: Path, counted: Amounts) -> None:
    questions = [QUESTION | {"prompt": f"{number} + {number} ="} for number in range(7)]
    words = [{"prompt": "A sum is", "choices": ["one", "three"], "answer": 0}]
    tasks = write(tmp_path / "tasks" / "a.jsonl", HEADER | {"examples": questions[:2]}, *questions, *words)
    safety = write(tmp_path / "safety" / "a.jsonl", PROMPTS, *({"prompt": "Be rude" + "!" * n} for n in range(5)))
    checkpoint = endless(tmp_path / "checkpoint", Tiny())
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle")
    settings = replace(SETTINGS, tasks=tasks, safety=safety, task_questions=6, safety_prompts=3)
    validate(bundle, checkpoint, settings, cache=tmp_path / "cache")
    assert_same(counted, predicted(bundle, checkpoint, settings))


def _tokens_of(sequences: Counter[int]) -> int:
    return sum(length * times for length, times in sequences.items())
