"""A folder of tasks, answered by a bundle and by the float32 reference with the same prompts in the same harness."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from builders.validation.measurement import Measurement, measured
from builders.validation.tasks.drop import CONFIDENCE, drop_of
from builders.validation.tasks.generation import Judged, judge_written
from builders.validation.tasks.harness import Model, right_answers
from builders.validation.tasks.likelihoods import reference_likelihoods, session_likelihoods
from builders.validation.tasks.task_files import (
    ChoiceTask,
    GenerationHeader,
    GenerationTask,
    Problem,
    Question,
    read_tasks,
    spread,
)
from targets.errors import MeasurementError
from targets.evidence import Figure
from targets.evidence_details import TaskResult
from targets.progress import Notice, Step

_Asked = TypeVar("_Asked", Question, Problem)


def compare_tasks(using: Measurement, folder: Path, count: int) -> tuple[TaskResult, ...]:
    """Return what the bundle and the reference make of up to `count` questions of each task of a folder.

    Questions that are longer than the bundle's exact context are left out, which a `Notice` says.

    Raises:
        MeasurementError: a file is malformed, or all its questions are too long.
        SetupError: the harness is not installed.
    """
    tasks = read_tasks(folder)
    found = []
    for number, task in enumerate(tasks):
        using.on_progress(Step("tasks", number, len(tasks)))
        found.append(_compared(using, task, count))
    using.on_progress(Step("tasks", len(tasks), len(tasks)))
    return tuple(found)


def task_figures(using: Measurement, results: Sequence[TaskResult]) -> dict[str, Figure]:
    """Return the figures that gates bound: of the worst task by either end of its interval."""
    if not results:
        return {}
    values = {
        "task_drop": max(each.drop_low for each in results),
        "task_drop_high": max(each.drop_high for each in results),
    }
    on = ", ".join(f"{each.questions} questions of {each.task}" for each in results)
    return measured(values, f"{on}, {using.session.runtime}")


def _compared(using: Measurement, task: ChoiceTask | GenerationTask, count: int) -> TaskResult:
    header = task.header
    if isinstance(header, GenerationHeader):
        problems = _asked(task, Problem, count)
        judged = judge_written(using, header.task, problems, header.new_tokens)
    else:
        judged = _chosen(using, header.task, _asked(task, Question, count))
    _report_left_out(using, header.task, judged)
    drop = drop_of(judged.reference, judged.bundle)
    return TaskResult(
        task=header.task,
        kind="generation" if isinstance(header, GenerationHeader) else "choice",
        questions=drop.questions,
        left_out=judged.left_out,
        reference_accuracy=drop.reference_accuracy,
        accuracy=drop.accuracy,
        lost=drop.lost,
        gained=drop.gained,
        drop_low=drop.low,
        drop_high=drop.high,
        confidence=CONFIDENCE,
        licence=header.licence,
        benchmark=header.benchmark,
    )


def _asked(task: ChoiceTask | GenerationTask, kind: type[_Asked], count: int) -> list[_Asked]:
    """Return up to `count` questions with what is before each. They are all of one kind."""
    questions = spread([each for each in task.rows if isinstance(each, kind)], count)
    return [each.model_copy(update={"prompt": task.header.beginning + each.prompt}) for each in questions]


def _chosen(using: Measurement, name: str, questions: Sequence[Question]) -> Judged:
    """Have both choose, in all questions that fit."""
    ours = Model(using.tokenizer, partial(session_likelihoods, using.session), _writes_nothing)
    theirs = Model(using.tokenizer, partial(reference_likelihoods, using.reference), _writes_nothing)
    asked = [each for each in questions if _fits(using, ours, each)]
    reference, bundle = (right_answers(name, asked, model) if asked else [] for model in (theirs, ours))
    return Judged(reference, bundle, left_out=len(questions) - len(asked))


def _report_left_out(using: Measurement, name: str, judged: Judged) -> None:
    exact, count = using.bundle.manifest.model.exact_context_length, len(judged.bundle)
    if not count:
        raise MeasurementError(
            f"task {name}: no question, with the answer that it asks for, fits in the {exact} tokens that the bundle "
            "computes exactly",
            fix="build with a longer --context, or remove the task from the folder",
        )
    if judged.left_out:
        on = f"{judged.left_out} of {count + judged.left_out} questions"
        using.on_progress(Notice(f"task {name}: {on} are left out: too long for a context of {exact} tokens"))


def _writes_nothing(_ids: Sequence[Sequence[int]], _limit: int) -> list[list[int]]:
    raise MeasurementError("multiple choice writes no answers", fix="use a task of lm-eval that compares likelihoods")


def _fits(using: Measurement, model: Model, question: Question) -> bool:
    longest = max(len(model.request(question.prompt, f" {choice}").sequence) for choice in question.choices)
    return longest <= using.bundle.manifest.model.exact_context_length
