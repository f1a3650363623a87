"""A backend of EleutherAI's lm-evaluation-harness: the harness makes the requests and judges, phipack computes.

    questions ──ConfigurableTask──> requests ──PhipackModel──> likelihoods ──harness──> right or wrong, a question each
    problems  ──ConfigurableTask──> requests ──PhipackModel──> answers ──────harness──> right or wrong, a problem each

The same for the float32 reference and for every format, so that the harness cancels out of the difference. Context and
continuation become ids as in the harness's own transformers backend: the ids of both together, cut where those of the
context end. What the tokenizer puts before a text (BOS) is before the context. Needs `phipack[tasks]`.

Written answers are judged as those to GSM8K: by the harness's own task of that name, its stop strings, its filter
`flexible-extract` (the last number of the answer) and its metric, with other questions.

Sources: lm_eval 0.4.13, api/model.py, models/huggingface.py and tasks/gsm8k/gsm8k.yaml.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import resources
from typing import Any

from builders.tokenizer import Tokenizer
from builders.validation.tasks.likelihoods import Likelihoods, Request
from builders.validation.tasks.task_files import Problem, Question
from targets.errors import MeasurementError, SetupError
from targets.installation import install_command

# Ids of several prompts, at most so many tokens -> what the model writes after each.
Write = Callable[[Sequence[Sequence[int]], int], list[list[int]]]
FILTER = "flexible-extract"
_NEW_TOKENS = 256  # of a generated answer, where a task does not say
_CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE")


@dataclass(frozen=True)
class Model:
    """What the harness asks of a model."""

    tokenizer: Tokenizer
    likelihoods: Likelihoods
    write: Write

    def request(self, context: str, continuation: str) -> Request:
        """Return the ids of a context and its continuation."""
        start = self.tokenizer.encode("", add_special_tokens=True)
        continuation = context[len(context.rstrip(" ")) :] + continuation
        context = context.rstrip(" ")  # a token may have a space before its word, hardly one after it
        before, whole = self.tokenizer.encode(context), self.tokenizer.encode(context + continuation)
        if not start and not before:
            raise MeasurementError(
                "a continuation without any context has no likelihood in a model without BOS",
                fix="give every question a prompt",
            )
        cut = min(len(before), len(whole) - 1)
        return Request((*start, *whole[:cut]), tuple(whole[cut:]))

    def prompt(self, context: str) -> list[int]:
        """Return the ids of a context."""
        return [*self.tokenizer.encode("", add_special_tokens=True), *self.tokenizer.encode(context)]

    def answers(self, contexts: Sequence[str], until: Sequence[str], limit: int) -> list[str]:
        """Return the texts that the model writes after contexts, cut before the first of `until`."""
        written = self.write([self.prompt(context) for context in contexts], limit)
        return [_cut(self.tokenizer.decode(ids), until) for ids in written]


def _cut(text: str, until: Sequence[str]) -> str:
    return text[: min((text.find(end) for end in until if end and end in text), default=len(text))]


def require_harness() -> None:
    """Raise `SetupError` where the harness is not installed. Imports nothing."""
    if importlib.util.find_spec("lm_eval") is None or importlib.util.find_spec("datasets") is None:
        raise SetupError("tasks need lm-evaluation-harness, which is not installed", fix=install_command("tasks"))


def right_answers(name: str, questions: Sequence[Question] | Sequence[Problem], model: Model) -> list[bool]:
    """Return for each question whether the harness finds the model's likeliest choice, or its written answer, right.

    The questions are of one kind, and there are some.

    Raises:
        SetupError: the harness is not installed.
    """
    with _quiet_harness():
        evaluate, task = _task(name, questions)
        found = evaluate(
            _backend(model), {name: task}, bootstrap_iters=0, log_samples=True, confirm_run_unsafe_code=False
        )
    samples = sorted(found["samples"][name], key=lambda sample: int(sample["doc_id"]))
    metric = "acc" if isinstance(questions[0], Question) else "exact_match"
    return [sample[metric] == 1 for sample in samples if sample["filter"] in {"none", FILTER}]


def stop_strings() -> tuple[str, ...]:
    """Return the strings with which a written answer is over."""
    return tuple(_gsm8k()["generation_kwargs"]["until"])


def _backend(model: Model) -> Any:
    """Return the harness's view of a model. Its base class is only known where the harness is installed."""
    from lm_eval.api.model import LM

    class PhipackModel(LM):  # type: ignore[misc] # the harness has no types
        """Answers the harness's requests."""

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            found = model.likelihoods([model.request(*each.args) for each in requests])
            return [(each.log_probability, each.is_greedy) for each in found]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            pairs = [model.request("", each.args[0]) for each in requests]
            return [each.log_probability for each in model.likelihoods(pairs)]

        def generate_until(self, requests: list[Any]) -> list[str]:
            asked: dict[tuple[tuple[str, ...], int], list[int]] = {}  # places of requests that end alike
            for place, options in enumerate(each.args[1] for each in requests):
                until = options.get("until", [])
                ends = (until,) if isinstance(until, str) else tuple(until)
                asked.setdefault((ends, int(options.get("max_gen_toks", _NEW_TOKENS))), []).append(place)
            found: dict[int, str] = {}
            for (ends, limit), places in asked.items():
                answers = model.answers([requests[place].args[0] for place in places], ends, limit)
                found |= dict(zip(places, answers, strict=True))
            return [found[place] for place in range(len(requests))]

    return PhipackModel()


def _task(name: str, questions: Sequence[Question] | Sequence[Problem]) -> tuple[Any, Any]:
    """Return the harness's `evaluate`, and its task over these questions."""
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate

    rows = [each.model_dump() for each in questions]
    config = _CHOICE if isinstance(questions[0], Question) else {**_gsm8k(), "doc_to_target": "{{answer}}"}
    own = {
        "task": name,
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
        "test_split": "test",
        "doc_to_text": lambda doc: doc["prompt"],
        "num_fewshot": 0,  # examples are part of the prompt
    }
    return evaluate, ConfigurableTask(config={**config, **own})


@lru_cache(maxsize=1)
def _gsm8k() -> dict[str, Any]:
    """Return the harness's task GSM8K, without where its questions are."""
    import yaml

    text = (resources.files("lm_eval") / "tasks" / "gsm8k" / "gsm8k.yaml").read_text("utf-8")
    left_out = ("dataset_path", "dataset_name", "training_split", "fewshot_split", "tag")
    return {key: value for key, value in yaml.safe_load(text).items() if key not in left_out}


@contextmanager
def _quiet_harness() -> Iterator[None]:
    """Let the harness print no warnings and no progress bars, and let its libraries reach no network."""
    require_harness()
    before = {name: os.environ.get(name) for name in _OFFLINE}
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    from lm_eval.api import task

    bars = task.tqdm
    task.tqdm = partial(bars, disable=True)
    try:
        yield
    finally:
        task.tqdm = bars
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
