"""The same questions in lm-evaluation-harness, by a bundle and by the reference: its judgement, our likelihoods."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from builders.build import build
from builders.checkpoint import Checkpoint
from builders.reference import FloatReference
from builders.runtime.sessions import open_session
from builders.tokenizer import Tokenizer, tokenizer_of
from builders.validation.measurement import Measurement
from builders.validation.prompts import check_prompts
from builders.validation.tasks import compare
from builders.validation.tasks.compare import compare_tasks, task_figures
from builders.validation.tasks.harness import Model, _backend, _quiet_harness, right_answers
from builders.validation.tasks.likelihoods import Likelihood, Request, reference_likelihoods
from builders.validation.tasks.task_files import Question, read_tasks
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError, SetupError
from targets.evaluation import EvaluationSettings
from targets.progress import silent
from targets.recipes import recipe_named
from tests.support.task_files import HEADER, write

QUESTIONS = [
    Question(prompt=f"the town in the {word}\nAnswer:", choices=["ant", "then", "on"], answer=number % 3)
    for number, word in enumerate(("morning", "thin onion", "ant", "then", "town", "on", "in", "the"))
]


def guessing(tokenizer: Tokenizer, likeliest: str) -> Model:
    """Return a model that finds one choice likelier than all others."""

    def likelihoods(requests: Sequence[Request]) -> list[Likelihood]:
        wanted = tokenizer.encode(f" {likeliest}")
        found = [tokenizer.decode(list(each.continuation)).strip() == likeliest for each in requests]
        assert wanted
        return [Likelihood(-1.0 if is_it else -2.0, is_it) for is_it in found]

    return Model(tokenizer, likelihoods, lambda prompts, limit: [[ids[-1]] * limit for ids in prompts])


def test_the_harness_judges_by_the_likeliest_choice_and_prints_nothing(
    tiny: Checkpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    for place, choice in enumerate(("ant", "then", "on")):
        found = right_answers("own", QUESTIONS, guessing(tokenizer_of(tiny), choice))
        assert found == [each.answer == place for each in QUESTIONS]
    assert "".join(capfd.readouterr()) == ""


def test_a_question_of_digits_alone_is_asked_as_it_is(tiny: Checkpoint) -> None:
    """The harness takes digits that a template renders for the number of a choice, which it would ask."""
    guess = guessing(tokenizer_of(tiny), "then")
    asked: list[str] = []

    class Overheard(Model):
        def request(self, context: str, continuation: str) -> Request:
            asked.append(context)
            return super().request(context, continuation)

    model = Overheard(guess.tokenizer, guess.likelihoods, guess.write)
    assert right_answers("own", [Question(prompt="1", choices=["ant", "then"], answer=1)], model) == [True]
    assert asked == ["1", "1"]


def test_context_and_continuation_are_the_ids_of_both_together(tiny: Checkpoint) -> None:
    tokenizer = tokenizer_of(tiny)
    model = guessing(tokenizer, "ant")
    for context in ("the town:", "the town: "):
        request = model.request(context, " ant")
        start = tokenizer.encode("", add_special_tokens=True)
        assert [*request.context, *request.continuation] == [*start, *tokenizer.encode(f"{context} ant")]
        assert tokenizer.decode(list(request.context)) == "the town:"


def test_the_reference_finds_the_choice_that_its_likelihoods_say(tiny: Checkpoint) -> None:
    reference = FloatReference(tiny)
    model = Model(tokenizer_of(tiny), lambda requests: reference_likelihoods(reference, requests), lambda *_: [])
    found = right_answers("own", QUESTIONS, model)
    for question, right in zip(QUESTIONS, found, strict=True):
        asked = [model.request(question.prompt, f" {choice}") for choice in question.choices]
        values = [each.log_probability for each in reference_likelihoods(reference, asked)]
        assert right == (values.index(max(values)) == question.answer)


def test_examples_are_written_as_the_harness_writes_those_of_mmlu(tmp_path: Path, tiny: Checkpoint) -> None:
    """lm-eval's own template of MMLU, with five of its questions as a dataset, against a file with the same ones."""
    docs = [{"question": f"{n} + 1? ", "choices": ["0", str(n), str(n + 1), "9"], "answer": n % 4} for n in range(6)]
    place = resources.files("lm_eval") / "tasks" / "mmlu" / "default"
    subject = yaml.safe_load((place / "mmlu_anatomy.yaml").read_text("utf-8"))
    config = yaml.safe_load((place / "_default_template_yaml").read_text("utf-8")) | {
        "task": "mmlu_anatomy",
        "description": subject["description"],
        "custom_dataset": lambda **_: {split: Dataset.from_list(docs) for split in ("dev", "test")},
    }
    with _quiet_harness():
        theirs = ConfigurableTask(config={key: value for key, value in config.items() if key != "dataset_path"})
        text = theirs.fewshot_context(docs[5], 5)
        asked = theirs.construct_requests(docs[5], text, metadata=("mmlu_anatomy", 5, 1))
    rows = [
        Question(
            prompt="\n".join([doc["question"].strip(), *map("{}. {}".format, "ABCD", doc["choices"]), "Answer:"]),
            choices=[*"ABCD"],
            answer=doc["answer"],
        ).model_dump()
        for doc in docs
    ]
    header = HEADER | {"description": subject["description"], "examples": rows[:5]}
    (task,) = read_tasks(write(tmp_path / "t" / "mmlu.jsonl", header, rows[5]))
    assert task.header.beginning + task.rows[0].prompt == text
    model = guessing(tokenizer_of(tiny), "A")
    own = [model.request(task.header.beginning + task.rows[0].prompt, f" {letter}") for letter in "ABCD"]
    assert [model.request(*each.args) for each in asked] == own


def test_examples_are_read_before_each_question(
    bundle: Bundle, tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def overheard(name: str, questions: Sequence[Question], model: Model) -> list[bool]:
        asked.append([each.prompt for each in questions])
        return right_answers(name, questions, model)

    monkeypatch.setattr(compare, "right_answers", overheard)
    example, *rows = [each.model_dump() for each in QUESTIONS[:4]]
    folder = write(tmp_path / "t" / "own.jsonl", HEADER | {"description": "Answer.\n", "examples": [example]}, *rows)
    with open_session(bundle) as session:
        using = Measurement(bundle, session, FloatReference(tiny), tokenizer_of(tiny), "", "none", silent)
        (result,) = compare_tasks(using, folder, 100)
    beginning = f"Answer.\n{QUESTIONS[0].prompt} ant\n\n"
    assert asked == [[beginning + each["prompt"] for each in rows]] * 2  # by both
    assert result.accuracy == result.reference_accuracy


def test_generation_stops_at_what_the_task_names(tiny: Checkpoint) -> None:
    tokenizer = tokenizer_of(tiny)
    written = tokenizer.encode("the town. then")
    model = Model(tokenizer, lambda _: [], lambda prompts, limit: [written[:limit]] * len(prompts))
    backend = _backend(model)

    def asked(**options: object) -> str:
        request = Instance("generate_until", {}, ("in", options), 0)
        (text,) = backend.generate_until([request])
        return text

    assert asked(until=["."]) == tokenizer.decode(written).partition(".")[0]
    assert asked(until=".") == asked(until=["."])
    assert asked(until=[]) == tokenizer.decode(written)
    assert asked(until=[], max_gen_toks=1) == tokenizer.decode(written[:1])


def test_rolling_likelihoods_need_a_first_token(tiny: Checkpoint) -> None:
    backend = _backend(guessing(tokenizer_of(tiny), "ant"))
    if tokenizer_of(tiny).encode("", add_special_tokens=True):
        pytest.fail("the tiny tokenizer puts BOS before a text: test rolling likelihoods with it")
    with pytest.raises(MeasurementError, match="without any context"):
        backend.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("the town",), 0)])


def test_a_folder_of_tasks_is_answered_by_both(bundle: Bundle, tiny: Checkpoint, tmp_path: Path) -> None:
    lines = [each.model_dump() for each in QUESTIONS]
    long = QUESTIONS[0].model_dump() | {"prompt": "the town " * bundle.manifest.model.exact_context_length}
    folder = write(tmp_path / "t" / "own.jsonl", HEADER | {"benchmark": "MMLU"}, *lines, long)
    coarse = build(tiny, recipe_named("gguf-q4_0"), tmp_path / "coarse")
    for each in (bundle, coarse):
        with open_session(each) as session:
            reference = FloatReference(tiny, tmp_path / "cache")
            using = Measurement(each, session, reference, tokenizer_of(tiny), "", "none", silent)
            (result,) = compare_tasks(using, folder, 100)
            figures = task_figures(using, (result,))
        assert (result.task, result.questions, result.licence, result.benchmark) == ("sums", 8, "MIT", "MMLU")
        assert result.lost - result.gained == round(8 * (result.reference_accuracy - result.accuracy))
        assert figures["task_drop"].value == result.drop_low <= result.drop_high == figures["task_drop_high"].value
        assert "8 questions of sums" in figures["task_drop"].on
        if each is bundle:
            assert result.accuracy == result.reference_accuracy
    (tmp_path / "t" / "own.jsonl").unlink()
    write(tmp_path / "t" / "own.jsonl", HEADER, long)
    with pytest.raises(MeasurementError, match="task sums: no question, with the answer that it asks for, fits"):
        compare_tasks(using, folder, 100)


def test_a_harness_that_is_not_installed_is_named_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "t" / "own.jsonl", HEADER, QUESTIONS[0].model_dump())
    check_prompts(EvaluationSettings(tasks=folder))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SetupError, match="lm-evaluation-harness") as error:
        check_prompts(EvaluationSettings(tasks=folder))
    assert "[tasks]" in error.value.fix
    check_prompts(EvaluationSettings())
    with pytest.raises(MeasurementError, match="has no prompts"):
        check_prompts(EvaluationSettings(safety=tmp_path / "nowhere"))
