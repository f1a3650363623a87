"""How much a validation reads and writes, counted before it is run: by the same rules, from lengths alone.

Not counted: what is known from before, which is not read again. Counted in full: answers that may end sooner.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from builders.gguf.convert import exact_context_length, exact_contexts
from builders.reference.answers import SHARED
from builders.runtime.together import MOST_PLACES
from builders.validation.answers import SAMPLES, built_in_prompts, harmless_prompts
from builders.validation.behaviour.edges import SCORED_BYTES
from builders.validation.behaviour.ids import SHORT_PROMPTS
from builders.validation.behaviour.subject import (
    compared_lengths,
    longest_compared,
    ordinary_tokens,
    parts_of,
    sample_of,
)
from builders.validation.lengths import Exactness, edges_of, first_limit, is_exact
from builders.validation.sampled_texts import sampled_window, sampled_windows
from builders.validation.stretches import cache_end, is_opened_again, spans_read
from builders.validation.tasks.likelihoods import padded_shapes
from builders.validation.tasks.task_files import (
    ChoiceTask,
    GenerationHeader,
    GenerationTask,
    Problem,
    Question,
    read_prompts,
    read_tasks,
    spread,
)
from builders.validation.text import window_length
from registry.bundle.manifest import ExactContext
from targets.architecture import Architecture
from targets.evaluation import EvaluationSettings
from targets.recipes import Recipe

_TOKEN_CHARACTERS = 3.5  # of English prompts
_TURN_TOKENS = 12  # of a chat template, around a turn


class TextSizes(Protocol):
    """How many tokens texts have."""

    @property
    def text_tokens(self) -> int:
        """Tokens of the evaluation's text."""
        ...

    @property
    def has_chat(self) -> bool:
        """Whether the checkpoint has a chat template."""
        ...

    def plain(self, text: str) -> int:
        """Return the tokens of a text from its beginning."""
        ...

    def turn(self, prompt: str) -> int:
        """Return the tokens of a user's turn, before its answer."""
        ...


@dataclass(frozen=True)
class SizesByCharacters:
    """Sizes without a tokenizer: a little off. Texts are taken to be as long as is needed."""

    text_tokens: int = 1 << 30
    has_chat: bool = True

    def plain(self, text: str) -> int:
        """Return the tokens of a text from its beginning."""
        return max(1, math.ceil(len(text) / _TOKEN_CHARACTERS))

    def turn(self, prompt: str) -> int:
        """Return the tokens of a user's turn, before its answer."""
        return _TURN_TOKENS + self.plain(prompt)


@dataclass(frozen=True)
class PlannedLengths:
    """What the manifest of a planned bundle will say of its lengths. Implements `Exactness`."""

    context_length: int
    exact_context_length: int
    exact_contexts: Sequence[ExactContext] = ()

    @classmethod
    def of_recipe(cls, architecture: Architecture, recipe: Recipe, context_length: int) -> PlannedLengths:
        """Return them: runtimes other than llama.cpp are exact everywhere."""
        if recipe.format != "gguf":
            return cls(context_length, context_length)
        exact = exact_context_length(architecture, context_length)
        return cls(context_length, exact, exact_contexts(architecture, context_length))


@dataclass
class Amounts:
    """What both read and write.

    `reference`, `bundle`: lengths of the sequences that each reads, in tokens, with how many there are. `compared`:
    tokens after which whole distributions are compared. `written`, `written_by_reference`: tokens that the bundle and
    the reference write. `steps`: of those that the bundle writes, one for each token of prompts continued together.
    """

    reference: Counter[int] = field(default_factory=Counter)
    bundle: Counter[int] = field(default_factory=Counter)
    compared: int = 0
    written: int = 0
    written_by_reference: int = 0
    steps: int = 0

    def compare(self, length: int, compared: int, count: int = 1) -> None:
        """Add sequences that both read, of which so many tokens each are compared."""
        self.reference[length] += count
        self.bundle[length] += count
        self.compared += compared * count

    def answer(self, prompts: Sequence[int], tokens: int) -> None:
        """Add prompts that both answer with so many tokens."""
        self.reference.update(prompts)
        self.bundle.update(prompts)
        self.written += len(prompts) * tokens
        self.written_by_reference += len(prompts) * tokens
        self.steps += tokens if prompts else 0


@dataclass(frozen=True)
class Validation:
    """What is counted: a recipe's bundle under some settings. `is_own_runtime`: False where Core ML is evaluated."""

    settings: EvaluationSettings
    architecture: Architecture
    recipe: Recipe
    lengths: Exactness
    sizes: TextSizes = field(default_factory=SizesByCharacters)
    is_own_runtime: bool = True

    def amounts(self) -> Amounts:
        """Count it.

        Raises:
            MeasurementError: a folder of tasks or prompts has no files, or a line is malformed.
        """
        found = Amounts()
        self._text(found)
        self._stretches(found)
        self._other_texts(found)
        answered = self._answers(found)
        self._tasks(found)
        if self.settings.compares_safety:
            self._safety(found, answered)
        if self.settings.suite != "accuracy":
            self._edges(found)
        return found

    @property
    def _window(self) -> int:
        return min(self.settings.tokens_read, window_length(self.settings, self.lengths.exact_context_length))

    def _text(self, found: Amounts) -> None:
        """Count the evaluation's own text, and greedy continuations of it."""
        settings, window = self.settings, self._window
        count = -(-settings.tokens_read // window)
        found.compare(window, window, count)
        prompt = min(settings.greedy_prompt_tokens, window // 2)
        new, prompts = min(settings.greedy_new_tokens, window - prompt), min(settings.greedy_prompts, count)
        found.bundle[prompt] += prompts
        found.written += prompts * new
        found.steps += new
        found.reference[prompt + new - 1] += prompts  # it reads what the bundle wrote
        if is_opened_again(self.lengths, window):
            found.bundle[window] += count
            found.compared += window * count

    def _stretches(self, found: Amounts) -> None:
        """Count the ends of long sequences of that text. The reference reads those of the same length once."""
        end = cache_end(self.lengths, self.sizes.text_tokens, self._window) if self.recipe.kv_cache else None
        spans = spans_read(self.lengths, self.architecture, self.settings, self._window, end)
        for first, last in spans:
            found.bundle[last] += 1
            found.compared += last + 1 - first
        found.reference.update({last for _, last in spans})

    def _other_texts(self, found: Amounts) -> None:
        exact = self.lengths.exact_context_length
        length = sampled_window(self.settings, exact)
        if length:
            found.compare(length, length, sampled_windows(self.settings, exact, has_chat=self.sizes.has_chat))

    def _answers(self, found: Amounts) -> int:
        """Count the built-in prompts, and return how many harmless ones are answered."""
        if self.settings.suite not in SAMPLES:
            return 0
        sample = SAMPLES[self.settings.suite]
        harmless = harmless_prompts()[: sample.prompts]
        prompts = [self.sizes.turn(prompt) for prompt in [*built_in_prompts()[: sample.prompts], *harmless]]
        edges = edges_of(self.architecture, self.lengths.context_length)
        most = sample.tokens if self.is_own_runtime else sample.evaluated_tokens
        longest = min(most, first_limit(self.lengths, edges) - max(prompts))
        if longest < 1:
            return 0
        found.answer(prompts, longest)
        return len(harmless)

    def _tasks(self, found: Amounts) -> None:
        for task in () if self.settings.tasks is None else read_tasks(self.settings.tasks):
            rows = spread([*task.rows], self.settings.questions_asked)
            if isinstance(task.header, GenerationHeader):
                self._written(found, task, [row for row in rows if isinstance(row, Problem)])
            else:
                self._chosen(found, task, [row for row in rows if isinstance(row, Question)])

    def _chosen(self, found: Amounts, task: ChoiceTask | GenerationTask, questions: Iterable[Question]) -> None:
        """Count questions. Choices of one letter follow the same sequence."""
        sequences: list[int] = []
        for question in questions:
            before = task.header.beginning + question.prompt
            lengths = [self.sizes.plain(f"{before} {choice}") - 1 for choice in question.choices]
            if max(map(len, question.choices)) == 1:
                lengths = lengths[:1]
            if max(lengths) <= self.lengths.exact_context_length:
                sequences += lengths
        found.bundle.update(sequences)
        for count, length in padded_shapes(sorted(sequences)):
            found.reference[length] += count

    def _written(self, found: Amounts, task: ChoiceTask | GenerationTask, problems: Sequence[Problem]) -> None:
        """Count problems. How long an answer is, is not known before: at most twice as long as the worked one."""
        assert isinstance(task.header, GenerationHeader)
        most = task.header.new_tokens
        shared = self.sizes.plain(task.header.beginning)
        for first in range(0, len(problems), MOST_PLACES):
            group = problems[first : first + MOST_PLACES]
            prompts = [self.sizes.plain(task.header.beginning + problem.prompt) for problem in group]
            found.bundle.update(prompts)
            is_shared = shared >= SHARED and len(group) > 1
            found.reference.update([shared, *(length - shared for length in prompts)] if is_shared else prompts)
            written = [min(most, 2 * self.sizes.plain(problem.answer)) for problem in group]
            found.written += sum(written)
            found.written_by_reference += sum(written)
            found.steps += max(written)

    def _safety(self, found: Amounts, answered: int) -> None:
        """Count sets of prompts, and the harmless look-alikes. `answered`: of these, how many were answered before."""
        sets = () if self.settings.safety is None else read_prompts(self.settings.safety)
        asked = self.settings.prompts_asked
        for each in sets:
            prompts = [self.sizes.turn(row.prompt) for row in spread(each.rows, asked)]
            found.answer(prompts, self.settings.prompt_answer_tokens)
            found.bundle.update(prompts)  # for the first token; the reference knows it from the answers
        harmless = [self.sizes.turn(prompt) for prompt in harmless_prompts()[:asked]]
        if answered:
            harmless = harmless[:answered]
        else:
            found.answer(harmless, self.settings.prompt_answer_tokens)
        found.bundle.update(harmless)

    def _edges(self, found: Amounts) -> None:
        """Count the behaviour suite's sequences: in one go, token by token and in chunks."""
        context = self.lengths.context_length
        edges = edges_of(self.architecture, context)
        lengths = compared_lengths(edges, context, sample_of(self.settings.suite).edge_tokens)
        last, ordinary = longest_compared(lengths, context), ordinary_tokens(edges)
        for first, end in parts_of(self.architecture, context, last):
            found.reference[end] += 1
            own = [length for length in lengths if first <= length <= end and is_exact(self.lengths, length)]
            is_scored = bool(own) and own[-1] * self.architecture.vocabulary_size * 4 <= SCORED_BYTES
            found.bundle.update(own[-1:] if is_scored else own)
        found.reference[ordinary] += 1  # with rounded weights
        if is_exact(self.lengths, ordinary):
            found.bundle[ordinary] += 1
        found.bundle.update([last, *([max(lengths)] if lengths else [])])
        found.bundle.update(n for n in range(1, min(SHORT_PROMPTS, last) + 1) if is_exact(self.lengths, n))


def planned_validation(
    settings: EvaluationSettings,
    architecture: Architecture,
    recipe: Recipe,
    context_length: int,
    *,
    on_mac: bool = False,
) -> Validation:
    """Return the validation of a bundle that is not built yet, without the checkpoint's tokenizer."""
    lengths = PlannedLengths.of_recipe(architecture, recipe, context_length)
    return Validation(settings, architecture, recipe, lengths, is_own_runtime=recipe.format != "coreml" or on_mac)
