"""Written answers, judged by lm-evaluation-harness: both sides write, and what a bundle loses is a drop."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lm_eval.filters.extraction import RegexFilter
from transformers import Phi3ForCausalLM

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.reference import Ending, FloatReference, reference_answers
from builders.reference.sequences import Sequences
from builders.runtime.sessions import open_session
from builders.tokenizer import Tokenizer, stop_token_ids, tokenizer_of
from builders.validation.answers import answer_both
from builders.validation.measurement import Measurement
from builders.validation.tasks.compare import compare_tasks, task_figures
from builders.validation.tasks.harness import Model, right_answers, stop_strings
from builders.validation.tasks.task_files import Problem
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError
from targets.evidence_details import TaskResult
from targets.progress import Event, Notice, silent
from targets.recipes import recipe_named
from tests.support.checkpoints import write_tiny
from tests.support.task_files import GENERATION, PROBLEM, write

LIMIT, LAST = 40, 20
PROMPTS = [f"Question: {first} + {second}?\nAnswer:" for first in range(2, 9) for second in (5, 7)]
SEVEN = [Problem(prompt=prompt, answer="3 + 4 = 7\n#### 7") for prompt in PROMPTS]


def writing(tokenizer: Tokenizer, *texts: str) -> Model:
    """Return a model that writes these texts."""

    def write(prompts: Sequence[Sequence[int]], _limit: int) -> list[list[int]]:
        return [tokenizer.encode(text) for _, text in zip(prompts, texts, strict=True)]

    return Model(tokenizer, lambda _: [], write)


@contextmanager
def measuring(bundle: Bundle, reference: FloatReference, seen: list[Event] | None = None) -> Iterator[Measurement]:
    with open_session(bundle) as session:
        tokenizer = tokenizer_of(reference.checkpoint)
        on_progress = silent if seen is None else seen.append
        yield Measurement(bundle, session, reference, tokenizer, "", "none", on_progress)


def compared(bundle: Bundle, reference: FloatReference, folder: Path, seen: list[Event] | None = None) -> TaskResult:
    with measuring(bundle, reference, seen) as using:
        (result,) = compare_tasks(using, folder, 100)
        assert task_figures(using, (result,))["task_drop"].value == result.drop_low
    return result


def by_transformers(checkpoint: Checkpoint, prompts: Sequence[str]) -> list[str]:
    """Return what transformers' own model writes greedily after each prompt, up to the harness's stop strings."""
    model = Phi3ForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32)
    tokenizer = tokenizer_of(checkpoint)
    texts = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer.encode(prompt)])
        stops = [*stop_token_ids(checkpoint)]
        found = model.generate(ids, max_new_tokens=LIMIT, do_sample=False, eos_token_id=stops, pad_token_id=310)
        texts.append(tokenizer.decode(found[0, ids.shape[1] :].tolist()).partition("Question:")[0])
    return texts


def last_numbers(texts: Sequence[str]) -> list[str]:
    """Return the number of each text by the harness's own filter, made as its GSM8K says."""
    config = yaml.safe_load((resources.files("lm_eval") / "tasks" / "gsm8k" / "gsm8k.yaml").read_text("utf-8"))
    (flexible,) = [each for each in config["filter_list"] if each["name"] == "flexible-extract"]
    options = {key: value for key, value in flexible["filter"][0].items() if key != "function"}
    return [found[0] for found in RegexFilter(**options).apply([[text] for text in texts], [{}] * len(texts))]


@pytest.fixture(scope="module")
def solved(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of problems whose right answers are the numbers that the checkpoint writes, as transformers runs it.

    The last has another one.
    """
    numbers = last_numbers(by_transformers(tiny, PROMPTS))
    rows = [
        {"prompt": prompt, "answer": f"#### {number.rstrip('.')}"}
        for prompt, number in zip(PROMPTS, numbers, strict=True)
        if number.rstrip(".").isdecimal()
    ]
    assert len(rows) >= 6
    wrong = PROBLEM | {"prompt": rows[-1]["prompt"] + " ", "answer": "#### 123456"}
    header = GENERATION | {"new_tokens": LIMIT}
    return write(tmp_path_factory.mktemp("solved") / "sums.jsonl", header, *rows, wrong)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of other weights."""
    folder = tmp_path_factory.mktemp("broken")
    return build(open_checkpoint(write_tiny(folder / "c", seed=7)), recipe_named("gguf-f16"), folder / "b")


def test_the_reference_writes_what_transformers_writes_and_float16_agrees(
    tiny: Checkpoint, bundle: Bundle, solved: Path
) -> None:
    result = compared(bundle, FloatReference(tiny), solved)
    count = result.questions
    assert (result.kind, result.left_out, result.reference_accuracy) == ("generation", 0, (count - 1) / count)
    assert result.accuracy >= (count - 2) / count  # a number may hang on float16's rounding
    assert result.drop_low <= 0


def test_a_bundle_of_other_weights_shows_the_drop(tiny: Checkpoint, broken: Bundle, solved: Path) -> None:
    result = compared(broken, FloatReference(tiny), solved)
    assert result.lost > result.gained == 0
    assert 0 < result.drop_low <= result.reference_accuracy - result.accuracy <= result.drop_high


def test_the_harness_judges_the_last_number_and_takes_an_answer_without_one_for_wrong(
    tiny: Checkpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = {
        "3 + 4 = 7\n#### 7": True,
        "So there are 7.": True,
        "$7": True,
        "seven": False,
        "": False,
        "7, or 8": False,
        "#### 70": False,
        "7 Question: 1 + 1? Answer: 2": True,  # what comes after a stop string is none of the answer's
    }
    model = writing(tokenizer_of(tiny), *texts)
    assert right_answers("own", SEVEN[: len(texts)], model) == [*texts.values()]
    thousands = [Problem(prompt="a", answer="#### 1,700"), Problem(prompt="b", answer="#### 1700")]
    assert right_answers("own", thousands, writing(tokenizer_of(tiny), "1700", "1,700")) == [True, True]
    assert "".join(capfd.readouterr()) == ""
    assert "Question:" in stop_strings()


def test_the_request_is_the_files_prompt_and_the_harness_stop_strings(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def overheard(_self: Model, contexts: Sequence[str], until: Sequence[str], _limit: int) -> list[str]:
        asked.extend((context, tuple(until)) for context in contexts)
        return ["7"] * len(contexts)

    monkeypatch.setattr(Model, "answers", overheard)
    assert right_answers("own", SEVEN[:3], writing(tokenizer_of(tiny))) == [True] * 3
    assert asked == [(prompt, stop_strings()) for prompt in PROMPTS[:3]]


def test_an_answer_ends_with_the_token_that_completes_its_stop_string(tiny: Checkpoint, bundle: Bundle) -> None:
    """The string begins within a token, ends within one, or is in the middle of one: both sides end with that token."""
    tokenizer = tokenizer_of(tiny)
    reference = FloatReference(tiny)
    prompt = tokenizer.encode(PROMPTS[0])
    (whole,) = reference_answers(reference, [prompt], LIMIT, Ending())
    for last in (3, 17, 38):  # before and after the bundle's first round ends
        text, before = tokenizer.decode(whole[: last + 1]), tokenizer.decode(whole[:last])
        string = text[max(0, len(before) - 1) :]
        expected = next(whole[:n] for n in range(1, LIMIT) if string in tokenizer.decode(whole[:n]))
        ending = Ending((), lambda ids, string=string: string in tokenizer.decode([*ids]))  # type: ignore[misc]
        with open_session(bundle) as session:
            (pair,) = answer_both(session, FloatReference(tiny), [prompt], LIMIT, ending)
        assert list(pair.reference) == expected
        assert list(pair.bundle) == expected
    part = Ending((), lambda ids: "ue" in "".join({1: "x", 2: "queen", 3: "y"}[token] for token in ids))
    assert part.cut([1, 2, 3]) == [1, 2]
    assert not part.is_reached([1, 3])
    assert part.is_reached([1, 2])


@pytest.mark.parametrize(("recipe", "is_own"), [("gguf-f16", True), ("onnx-fp16", True), ("gguf-f16", False)])
def test_an_answer_in_rounds_is_that_in_one_go(
    tiny: Checkpoint, tmp_path: Path, recipe: str, is_own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that is not of the format's own runtime, such as an evaluated Core ML program, writes in one go."""
    asked: list[int] = []
    prompts = [tokenizer_of(tiny).encode(prompt) for prompt in PROMPTS[:3]]
    with open_session(build(tiny, recipe_named(recipe), tmp_path / "b")) as session:
        whole = answer_both(session, FloatReference(tiny), prompts, LIMIT, Ending())
        one_go = session.continue_each

        def overheard(some: Sequence[np.ndarray], most: int, **options: Collection[int]) -> Iterator[np.ndarray]:
            asked.append(most)
            return one_go(some, most, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(session, "continue_each", overheard)
        monkeypatch.setattr(session, "is_own_runtime", is_own)
        parts = answer_both(session, FloatReference(tiny), prompts, LIMIT, Ending((), lambda _: False))
    assert [pair.bundle for pair in parts] == [pair.bundle for pair in whole]
    assert asked == ([32, LIMIT - 32] if is_own else [LIMIT])


def test_questions_without_room_for_an_answer_are_left_out_and_reported(
    tiny: Checkpoint, bundle: Bundle, tmp_path: Path
) -> None:
    exact = bundle.manifest.model.exact_context_length
    long = PROBLEM | {"prompt": "the town " * exact}
    folder = write(tmp_path / "t" / "sums.jsonl", GENERATION | {"new_tokens": 4}, PROBLEM, long)
    seen: list[Event] = []
    result = compared(bundle, FloatReference(tiny), folder, seen)
    assert (result.questions, result.left_out) == (1, 1)
    (notice,) = [event.text for event in seen if isinstance(event, Notice)]
    assert notice == f"task sums: 1 of 2 questions are left out: too long for a context of {exact} tokens"
    write(tmp_path / "t" / "sums.jsonl", GENERATION | {"new_tokens": exact}, PROBLEM)
    with pytest.raises(MeasurementError, match=f"task sums: no question, .* fits in the {exact} tokens"):
        compared(bundle, FloatReference(tiny), folder)


class Interrupted(Sequences):
    """Sequences whose walk number `LAST` is interrupted."""

    walks = 0

    def read(self, new: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray]:
        self.walks += 1
        if self.walks == LAST:
            raise KeyboardInterrupt
        return super().read(new)


@dataclass(frozen=True)
class Counting(FloatReference):
    """A reference that counts the tokens that its walks read."""

    read: tuple[list[int], ...] = ([],)
    kind: type[Sequences] = Sequences

    def sequences(self, rooms: Sequence[int]) -> Sequences:
        found = self.kind(self.checkpoint.architecture, self._source, rooms)
        whole = found.read

        def counted(new: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray]:
            rows = whole(new)
            self.read[0].append(sum(map(len, new.values())))
            return rows

        found.read = counted  # type: ignore[method-assign]
        return found


def test_an_interrupted_task_goes_on_from_what_was_found(
    tiny: Checkpoint, broken: Bundle, solved: Path, tmp_path: Path
) -> None:
    """The bundle's answers are no help, so that the reference writes a token a walk."""
    fresh = Counting(tiny, read=([],))
    whole = compared(broken, fresh, solved)
    with pytest.raises(KeyboardInterrupt):
        compared(broken, Counting(tiny, tmp_path, kind=Interrupted), solved)
    resumed = Counting(tiny, tmp_path, read=([],))
    assert compared(broken, resumed, solved) == whole
    assert len(resumed.read[0]) == len(fresh.read[0]) - (LAST - 1) > 0
    again = Counting(tiny, tmp_path, read=([],))
    assert compared(broken, again, solved) == whole
    assert again.read == ([],)


def test_examples_before_all_questions_are_read_once(tiny: Checkpoint) -> None:
    tokenizer = tokenizer_of(tiny)
    beginning = tokenizer.encode("Question: 1 + 1?\nAnswer: #### 2\n\n" * 4)
    prompts = [beginning + tokenizer.encode(prompt) for prompt in PROMPTS[:3]]
    alone = [reference_answers(FloatReference(tiny), [ids], 8, Ending())[0] for ids in prompts]
    counting = Counting(tiny, read=([],))
    assert reference_answers(counting, prompts, 8, Ending()) == alone
    assert counting.read[0][0] >= len(beginning)
    assert sum(counting.read[0][:2]) < len(beginning) + sum(len(ids) - len(beginning) + 1 for ids in prompts)


def test_what_is_read_once_has_each_prompts_own_factors(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c", original_context=100, context=200, dtype="F16"))
    reference = FloatReference(checkpoint)
    beginning = [*range(20, 90)]
    prompts = [[*beginning, 5, 6], [*beginning, *range(100, 140)], [*beginning, 9]]
    alone = [reference_answers(reference, [ids], 8, Ending())[0] for ids in prompts]
    assert reference_answers(reference, prompts, 8, Ending()) == alone
