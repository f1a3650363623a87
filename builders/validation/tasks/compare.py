"""A folder of tasks, answered by a bundle and by the float32 reference with the same prompts in the same harness."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from builders.reference import reference_answers
from builders.runtime.session import Session
from builders.validation.measurement import Measurement, measured
from builders.validation.tasks.drop import CONFIDENCE, drop_of
from builders.validation.tasks.harness import Model, right_answers
from builders.validation.tasks.likelihoods import reference_likelihoods, session_likelihoods
from builders.validation.tasks.task_files import LinesFile, Question, TaskHeader, read_tasks, spread
from targets.errors import MeasurementError
from targets.evidence import Figure
from targets.evidence_details import TaskResult
from targets.progress import Step


def compare_tasks(using: Measurement, folder: Path, count: int) -> tuple[TaskResult, ...]:
    """Return what the bundle and the reference make of up to `count` questions of each task of a folder.

    Questions that are longer than the bundle's exact context are left out.

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


def _compared(using: Measurement, task: LinesFile[TaskHeader, Question], count: int) -> TaskResult:
    stops = frozenset(using.bundle.manifest.generation.stop_token_ids)
    ours = Model(
        using.tokenizer,
        partial(session_likelihoods, using.session),
        lambda ids, limit: _written(using.session, ids, limit, stops),
    )
    theirs = Model(
        using.tokenizer,
        partial(reference_likelihoods, using.reference),
        lambda ids, limit: reference_answers(
            using.reference, [ids], limit, stops, [ours.write(ids, limit)], partial(_drafts, ours)
        )[0],
    )
    beginning = task.header.beginning
    whole = [each.model_copy(update={"prompt": beginning + each.prompt}) for each in spread(task.rows, count)]
    asked = [each for each in whole if _fits(using, ours, each)]
    name = task.header.task
    if not asked:
        raise MeasurementError(
            f"task {name}: every question is longer than the {using.bundle.manifest.model.exact_context_length} tokens "
            "that the bundle computes exactly",
            fix="build with a longer --context, or remove the task from the folder",
        )
    drop = drop_of(right_answers(name, asked, theirs), right_answers(name, asked, ours))
    return TaskResult(
        task=name,
        questions=drop.questions,
        reference_accuracy=drop.reference_accuracy,
        accuracy=drop.accuracy,
        lost=drop.lost,
        gained=drop.gained,
        drop_low=drop.low,
        drop_high=drop.high,
        confidence=CONFIDENCE,
        licence=task.header.licence,
        benchmark=task.header.benchmark,
    )


def _written(session: Session, ids: Sequence[int], limit: int, stops: frozenset[int]) -> list[int]:
    """Return the likeliest tokens after some, up to a stop id."""
    (found,) = session.continue_each([np.asarray(ids, np.int64)], limit, stops=stops)
    return found.tolist()


def _drafts(model: Model, sequences: Sequence[Sequence[int]], limits: Sequence[int]) -> list[list[int]]:
    return [model.write(ids, limit) for ids, limit in zip(sequences, limits, strict=True)]


def _fits(using: Measurement, model: Model, question: Question) -> bool:
    longest = max(len(model.request(question.prompt, f" {choice}").sequence) for choice in question.choices)
    return longest <= using.bundle.manifest.model.exact_context_length
