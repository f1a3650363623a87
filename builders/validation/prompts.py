"""What is measured on prompts: answers to read, tasks, and safety. How much of each, by suite."""

from __future__ import annotations

from builders.validation.answers import Answered, shown_answers
from builders.validation.measurement import Measurement
from builders.validation.tasks.compare import compare_tasks, task_figures
from builders.validation.tasks.harness import require_harness
from builders.validation.tasks.safety import compare_safety, safety_figures
from builders.validation.tasks.task_files import read_prompts, read_tasks
from targets.evaluation import EvaluationSettings
from targets.evidence import Figure
from targets.evidence_details import Details, SafetyResult


def check_prompts(settings: EvaluationSettings) -> None:
    """Refuse what `compare_prompts` would refuse of any bundle.

    Raises:
        MeasurementError: a folder is empty, or a file is malformed.
        SetupError: tasks are asked for, and the harness is not installed.
    """
    if settings.tasks is not None:
        require_harness()
        read_tasks(settings.tasks)
    if settings.safety is not None:
        read_prompts(settings.safety)


def compare_prompts(
    using: Measurement, settings: EvaluationSettings, answered: Answered, details: Details
) -> tuple[dict[str, Figure], Details]:
    """Return the figures of tasks and safety, and the details with them. Folders are read where settings name them.

    `answered`: the built-in prompts.

    Raises:
        MeasurementError: a folder is empty, a file is malformed, or nothing fits the bundle's context.
        SetupError: tasks are asked for, and the harness is not installed.
    """
    tasks = () if settings.tasks is None else compare_tasks(using, settings.tasks, settings.questions_asked)
    safety: tuple[SafetyResult, ...] = ()
    if settings.compares_safety:
        counts = settings.prompts_asked, settings.prompt_answer_tokens
        safety = compare_safety(using, settings.safety, *counts, answered)
    added = {"answers": shown_answers(using.tokenizer, answered), "tasks": tasks, "safety": safety}
    return task_figures(using, tasks) | safety_figures(using, safety), details.model_copy(update=added)
