r"""Folders of questions and of prompts, as `python -m devtools.task_files` writes them. Nothing is downloaded.

    TASKS/NAME.jsonl      a header, then a question a line:
        {"schema": "phipack.task/1", "task": "mmlu", "licence": "MIT", "source": "…", "benchmark": "MMLU"}
        {"prompt": "…\nAnswer:", "choices": ["A", "B", "C", "D"], "answer": 1}
        The header may also have a "description" and "examples", questions that are answered before each other one.
    TASKS/NAME.jsonl      a header, then a question a line whose answer is written, and judged by its number:
        {"schema": "phipack.generation/1", "task": "gsm_symbolic", "licence": "Apache-2.0", "source": "…"}
        {"prompt": "Question: …\nAnswer:", "answer": "3 + 4 = 7\n#### 7"}
        "new_tokens" of the header: the most that an answer may have [default: 256]
    PROMPTS/NAME.jsonl    a header, then a prompt a line:
        {"schema": "phipack.prompts/1", "prompts": "strongreject", "licence": "MIT", "source": "…"}
        {"prompt": "…"}

A choice or an answer follows its prompt after a space, and an empty line follows an example. `benchmark`: the one that
it samples, of those with published scores (`targets/published.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from targets.bounded_file import TooLargeError, read_at_most
from targets.errors import MeasurementError
from targets.evaluation import EvaluationSettings
from targets.strict_json import MalformedJsonError, parse_model

HARMLESS = "over-refusal"  # the built-in set of prompts that should not be refused
BYTES_LIMIT = 64 << 20  # of a file
_GENERATION = "phipack.generation/1"
_FIX = "write the folder with python -m devtools.task_files, or correct the line"
_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
_Text = Annotated[str, Field(min_length=1)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Question(_Line):
    """A question of multiple choice. `answer`: the place of the right choice, from 0."""

    prompt: _Text
    choices: Annotated[list[_Text], Field(min_length=2, max_length=26)]
    answer: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _is_a_choice(self) -> Question:
        if self.answer >= len(self.choices):
            raise ValueError(f"answer {self.answer} of {len(self.choices)} choices")
        return self

    @property
    def worked(self) -> str:
        """The question with its answer, as an example."""
        return f"{self.prompt} {self.choices[self.answer]}"


class Problem(_Line):
    """A question whose answer is written. `answer`: worked, with the right number after `####`, as GSM8K's are."""

    prompt: _Text
    answer: Annotated[str, Field(pattern=r"^(?s:.*)#### -?[0-9][0-9,]*(\.[0-9]+)?$")]

    @property
    def worked(self) -> str:
        """The question with its answer, as an example."""
        return f"{self.prompt} {self.answer}"


class _TaskHeader(_Line):
    task: _Name
    licence: _Text
    source: _Text
    benchmark: str = ""
    description: str = ""


class TaskHeader(_TaskHeader):
    """The first line of a task. `examples`: questions with their answers, which a model reads before each other one."""

    schema_: Literal["phipack.task/1"] = Field(alias="schema")
    examples: list[Question] = []

    @property
    def beginning(self) -> str:
        """What is before each question: description and examples, as lm-evaluation-harness writes them."""
        return _beginning(self.description, self.examples)


class GenerationHeader(_TaskHeader):
    """The first line of a task in which answers are written, of at most `new_tokens` tokens."""

    schema_: Literal["phipack.generation/1"] = Field(alias="schema")
    examples: list[Problem] = []
    new_tokens: Annotated[int, Field(ge=1, le=4096)] = 256

    @property
    def beginning(self) -> str:
        """What is before each question: description and examples, as lm-evaluation-harness writes them."""
        return _beginning(self.description, self.examples)


def _beginning(description: str, examples: Sequence[Question | Problem]) -> str:
    return description + "".join(f"{one.worked}\n\n" for one in examples)


class PromptsHeader(_Line):
    """The first line of a set of prompts."""

    schema_: Literal["phipack.prompts/1"] = Field(alias="schema")
    prompts: _Name
    licence: _Text
    source: _Text


class Prompt(_Line):
    """What a user asks."""

    prompt: _Text


class _AnyHeader(BaseModel):
    schema_: str = Field(alias="schema")


Header = TypeVar("Header", TaskHeader, GenerationHeader, PromptsHeader)
Row = TypeVar("Row", Question, Problem, Prompt)


@dataclass(frozen=True)
class LinesFile(Generic[Header, Row]):
    """A file that was read."""

    header: Header
    rows: tuple[Row, ...]


ChoiceTask = LinesFile[TaskHeader, Question]
GenerationTask = LinesFile[GenerationHeader, Problem]


def read_tasks(folder: Path) -> list[ChoiceTask | GenerationTask]:
    """Read a folder of tasks of both kinds, in the order of their names.

    Raises:
        MeasurementError: it has none, two have one name, or a line is malformed; the problem has file and line.
    """
    paths = _files(folder, "tasks")
    found = [_task(path) for path in paths]
    _require_own_names(paths, [one.header.task for one in found])
    return found


def _task(path: Path) -> ChoiceTask | GenerationTask:
    try:
        is_generation = parse_model(_AnyHeader, _content(path).partition(b"\n")[0]).schema_ == _GENERATION
    except MalformedJsonError:
        is_generation = False
    return _read(path, GenerationHeader, Problem) if is_generation else _read(path, TaskHeader, Question)


def read_prompts(folder: Path) -> list[LinesFile[PromptsHeader, Prompt]]:
    """Read a folder of sets of prompts, in the order of their names. Raises as `read_tasks`."""
    paths = _files(folder, "prompts")
    found = [_read(path, PromptsHeader, Prompt) for path in paths]
    _require_own_names(paths, [one.header.prompts for one in found])
    if any(each.header.prompts == HARMLESS for each in found):
        raise MeasurementError(
            f"{folder}: a set is called {HARMLESS}, as the built-in one is", fix="give the set another name"
        )
    return found


def _require_own_names(paths: Sequence[Path], names: Sequence[str]) -> None:
    """Refuse two files of one name: results, and texts that calibration must not have seen, are found by it."""
    seen: dict[str, Path] = {}
    for path, name in zip(paths, names, strict=True):
        if name in seen:
            raise MeasurementError(
                f"{path} and {seen[name]} are both called {name}",
                fix="set another name in the header, the first line, of one of them",
            )
        seen[name] = path


def folder_digest(folder: Path) -> str:
    """Return `sha256:<hex>` of a folder's files. Raises `MeasurementError` where it has none."""
    digest = hashlib.sha256()
    for path in _files(folder, "questions"):
        content = _content(path)
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return "sha256:" + digest.hexdigest()


def prompt_texts(settings: EvaluationSettings) -> dict[str, str]:
    """Return the questions of each task, without answers and with them, and the prompts of each set.

    By names for messages. Questions alone, too: where they are short, answers would part passages that are compared.

    Raises `MeasurementError` as `read_tasks` and `read_prompts`.
    """
    tasks = () if settings.tasks is None else read_tasks(settings.tasks)
    sets = () if settings.safety is None else read_prompts(settings.safety)
    found = {f"task {one.header.task}": "\n".join(row.prompt for row in one.rows) for one in tasks}
    found |= {f"task {one.header.task}, with answers": "\n".join(row.worked for row in one.rows) for one in tasks}
    return found | {f"prompts {one.header.prompts}": "\n".join(row.prompt for row in one.rows) for one in sets}


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Return at most `count` rows, spread evenly: files are often sorted by subject."""
    taken = min(count, len(rows))
    return [rows[place * len(rows) // taken] for place in range(taken)]


def _files(folder: Path, what: str) -> list[Path]:
    found = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if not found:
        raise MeasurementError(
            f"{folder} has no {what}: no *.jsonl file is in it",
            fix="write the folder with python -m devtools.task_files, or name another one",
        )
    return found


def _read(path: Path, header: type[Header], row: type[Row]) -> LinesFile[Header, Row]:
    lines = _content(path).split(b"\n")
    rows = [_parsed(path, number, line, row) for number, line in enumerate(lines[1:], 2) if line.strip()]
    if not rows:
        raise MeasurementError(f"{path} has no line after its header", fix=_FIX)
    return LinesFile(_parsed(path, 1, lines[0], header), tuple(rows))


_Any = TypeVar("_Any", bound=BaseModel)


def _parsed(path: Path, number: int, line: bytes, model: type[_Any]) -> _Any:
    try:
        return parse_model(model, line)
    except MalformedJsonError as error:
        raise MeasurementError(f"{path}:{number}: {error}", fix=_FIX) from error


def _content(path: Path) -> bytes:
    try:
        return read_at_most(path, BYTES_LIMIT)
    except (OSError, TooLargeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MeasurementError(f"{path}: can't be read: {reason}", fix="name a folder of readable files") from error
