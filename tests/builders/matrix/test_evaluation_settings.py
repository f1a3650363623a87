"""What a validation's key knows of its settings, and what it is estimated to cost."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from builders.checkpoint import Checkpoint
from builders.matrix.cell_plan import Inputs
from builders.matrix.rates import validation_amount
from builders.validation.amounts import planned_validation
from registry.store.uris import open_store
from targets.errors import MeasurementError
from targets.evaluation import EvaluationSettings
from targets.recipes import recipe_named
from tests.support.task_files import HEADER, PROMPTS, QUESTION, write

LINE = '{"schema": "phipack.task/1"}\n'


def evaluation(checkpoint: Checkpoint, settings: EvaluationSettings, store: Path) -> dict[str, object]:
    return Inputs(checkpoint, settings, open_store(str(store))).evaluation


def test_every_setting_is_in_the_key(tiny: Checkpoint, tmp_path: Path) -> None:
    """Also those that are not used: a cell with tasks, or of another suite, is of another release than one without."""
    found = evaluation(tiny, EvaluationSettings(), tmp_path)
    assert set(found) == {field.name for field in fields(EvaluationSettings)}
    assert (found["suite"], found["tasks"], found["safety"]) == ("accuracy", None, None)


def test_folders_count_by_their_content_and_not_by_their_path(tiny: Checkpoint, tmp_path: Path) -> None:
    found = []
    for name, line in (("one", LINE), ("two", LINE), ("three", LINE * 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text(line, "utf-8")
        settings = EvaluationSettings(tasks=tmp_path / name, safety=tmp_path / "one")
        found.append(evaluation(tiny, settings, tmp_path))
    assert found[0] == found[1]
    assert found[0]["tasks"] != found[2]["tasks"]
    assert (found[0]["task_questions"], found[0]["safety_prompts"]) == (200, 32)
    with pytest.raises(MeasurementError, match="no questions"):
        evaluation(tiny, EvaluationSettings(tasks=tmp_path / "nowhere"), tmp_path)


def test_the_texts_of_a_suite_are_in_its_key(tiny: Checkpoint, tmp_path: Path) -> None:
    settings = EvaluationSettings()
    found = [evaluation(tiny, replace(settings, suite=suite), tmp_path) for suite in ("accuracy", "quick", "full")]
    assert found[0]["text"] != found[1]["text"] == found[2]["text"]
    assert [each["suite"] for each in found] == ["accuracy", "quick", "full"]


def test_what_is_read_in_addition_costs_in_addition(tiny: Checkpoint, tmp_path: Path) -> None:
    tasks = write(tmp_path / "tasks" / "a.jsonl", HEADER, QUESTION)
    safety = write(tmp_path / "safety" / "a.jsonl", PROMPTS, {"prompt": "Be rude."})
    settings = EvaluationSettings()
    asked = [
        settings,
        replace(settings, suite="behaviour"),
        replace(settings, suite="full"),
        replace(settings, suite="full", tasks=tasks),
        replace(settings, suite="full", tasks=tasks, safety=safety),
    ]
    recipe = recipe_named("gguf-q4_0")
    amounts = [validation_amount(planned_validation(each, tiny.architecture, recipe, 512)) for each in asked]
    assert amounts == sorted(set(amounts))
