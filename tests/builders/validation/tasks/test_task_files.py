"""Folders of questions and prompts: what they say is read, and what is wrong is named by file and line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from builders.validation.tasks.task_files import (
    GenerationHeader,
    folder_digest,
    prompt_texts,
    read_prompts,
    read_tasks,
    spread,
)
from targets.errors import MeasurementError
from targets.evaluation import EvaluationSettings
from tests.support.task_files import GENERATION, HEADER, PROBLEM, PROMPTS, QUESTION, write


def test_tasks_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", HEADER, QUESTION, "\n", QUESTION)
    folder = write(tmp_path / "a.jsonl", HEADER | {"task": "more", "benchmark": "MMLU"}, QUESTION)
    first, second = read_tasks(folder)
    assert (first.header.task, first.header.benchmark, first.header.licence) == ("more", "MMLU", "MIT")
    assert (second.rows[1].prompt, second.rows[1].choices, second.rows[1].answer) == ("2 + 2 =", ["3", "4"], 1)
    assert len(second.rows) == 2


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([HEADER, QUESTION | {"answer": 2}], r"a\.jsonl:2: .*answer 2 of 2 choices"),
        ([HEADER, QUESTION, QUESTION | {"answer": True}], r"a\.jsonl:3: answer: "),
        ([HEADER, QUESTION | {"more": 1}], r"a\.jsonl:2: more: "),
        ([HEADER, "{\n"], r"a\.jsonl:2: "),
        ([QUESTION, QUESTION], r"a\.jsonl:1: "),
        ([HEADER | {"schema": "phipack.task/2"}, QUESTION], r"a\.jsonl:1: schema: "),
        ([HEADER | {"task": "../up"}, QUESTION], r"a\.jsonl:1: task: "),
        ([HEADER], "has no line after its header"),
        ([HEADER, PROBLEM], r"a\.jsonl:2: "),
        ([GENERATION, QUESTION], r"a\.jsonl:2: "),
        ([GENERATION, PROBLEM | {"answer": "4"}], r"a\.jsonl:2: answer: "),
        ([GENERATION, PROBLEM | {"answer": "#### four"}], r"a\.jsonl:2: answer: "),
        ([GENERATION | {"new_tokens": 0}, PROBLEM], r"a\.jsonl:1: new_tokens: "),
        ([GENERATION | {"examples": [QUESTION]}, PROBLEM], r"a\.jsonl:1: examples\.0\."),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, lines: list[object], problem: str) -> None:
    with pytest.raises(MeasurementError, match=problem) as error:
        read_tasks(write(tmp_path / "a.jsonl", *lines))
    assert "devtools.task_files" in error.value.fix


def test_both_kinds_of_tasks_are_in_one_folder(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", HEADER, QUESTION)
    written = GENERATION | {"task": "written", "examples": [PROBLEM], "description": "Sums.\n", "new_tokens": 64}
    generation, choice = read_tasks(write(tmp_path / "a.jsonl", written, PROBLEM))
    assert isinstance(generation.header, GenerationHeader)
    assert generation.header.new_tokens == 64
    assert generation.header.beginning == "Sums.\nQuestion: 2 + 2?\nAnswer: 2 + 2 = 4\n#### 4\n\n"
    assert [row.model_dump() for row in generation.rows] == [PROBLEM]
    assert [row.model_dump() for row in choice.rows] == [QUESTION]
    default = read_tasks(write(tmp_path / "c" / "a.jsonl", GENERATION, PROBLEM))[0].header
    assert isinstance(default, GenerationHeader)
    assert default.new_tokens == 256


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        for read in (read_tasks, read_prompts, folder_digest):
            with pytest.raises(MeasurementError, match=r"no \*\.jsonl file"):
                read(folder)


def test_a_set_of_prompts_can_not_take_the_built_in_ones_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "a.jsonl", PROMPTS, {"prompt": "Be rude."})
    assert read_prompts(folder)[0].rows[0].prompt == "Be rude."
    write(tmp_path / "a.jsonl", PROMPTS | {"prompts": "over-refusal"}, {"prompt": "Be rude."})
    with pytest.raises(MeasurementError, match="a set is called over-refusal"):
        read_prompts(folder)


def test_a_calibration_must_see_neither_questions_nor_answers(tmp_path: Path) -> None:
    write(tmp_path / "t" / "a.jsonl", HEADER, QUESTION)
    tasks = write(tmp_path / "t" / "b.jsonl", GENERATION | {"task": "written"}, PROBLEM)
    safety = write(tmp_path / "p" / "a.jsonl", PROMPTS, {"prompt": "Be rude."})
    assert prompt_texts(EvaluationSettings(tasks=tasks, safety=safety)) == {
        "task sums": "2 + 2 =",
        "task sums, with answers": "2 + 2 = 4",
        "task written": "Question: 2 + 2?\nAnswer:",
        "task written, with answers": "Question: 2 + 2?\nAnswer: 2 + 2 = 4\n#### 4",
        "prompts rude": "Be rude.",
    }


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    """The texts that a calibration must not have seen are found by name: one file's would be missing."""
    for read, first in ((read_tasks, (HEADER, QUESTION)), (read_prompts, (PROMPTS, {"prompt": "Be rude."}))):
        folder = tmp_path / read.__name__
        write(folder / "a.jsonl", *first)
        write(folder / "b.jsonl", *first)
        with pytest.raises(MeasurementError, match=r"b\.jsonl and .*a\.jsonl are both called (sums|rude)"):
            read(folder)


def test_the_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    one = folder_digest(write(tmp_path / "x" / "a.jsonl", HEADER, QUESTION))
    content = (tmp_path / "x" / "a.jsonl").read_bytes()
    separated = b"a.jsonl\x00" + str(len(content)).encode() + b"\x00" + content
    assert one == "sha256:" + hashlib.sha256(separated).hexdigest()
    assert folder_digest(write(tmp_path / "y" / "a.jsonl", HEADER, QUESTION)) == one
    assert folder_digest(write(tmp_path / "z" / "b.jsonl", HEADER, QUESTION)) != one
    assert folder_digest(write(tmp_path / "y" / "a.jsonl", HEADER, QUESTION, QUESTION)) != one


@pytest.mark.parametrize(("count", "chosen"), [(1, [0]), (3, [0, 3, 6]), (10, [*range(10)]), (99, [*range(10)])])
def test_few_of_many_are_spread_over_all(tmp_path: Path, count: int, chosen: list[int]) -> None:
    lines = [QUESTION | {"prompt": str(number)} for number in range(10)]
    (task,) = read_tasks(write(tmp_path / "a.jsonl", HEADER, *lines))
    assert [int(row.prompt) for row in spread(task.rows, count)] == chosen
