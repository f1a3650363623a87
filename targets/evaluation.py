"""The settings of a validation, set in the project file's `[evaluation]` or on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

# `accuracy`: distributions on the text, speed and memory. `behaviour` adds the behaviour suite. `quick`: a sample of
# everything, for development. `full`: everything, for a release.
Suite = Literal["accuracy", "behaviour", "quick", "full"]
SUITES: tuple[Suite, ...] = get_args(Suite)
QUICK_TOKENS = 1024  # of the evaluation's text that the suite quick reads
QUICK_SEQUENCE_TOKENS = 512  # of the longest sequence past an edge that it reads
_QUICK_QUESTIONS, _QUICK_PROMPTS = 16, 4  # of each task and of each set
_ANSWER_TOKENS, _QUICK_ANSWER_TOKENS = 32, 16  # of an answer to a prompt of a set


@dataclass(frozen=True)
class EvaluationSettings:
    """Which tokens a validation reads: `tokens` of `text`, in windows of `window` tokens.

    `greedy_prompts` greedy continuations of `greedy_new_tokens` tokens each start from the first
    `greedy_prompt_tokens` tokens of the first windows.

    `tasks`: a folder of questions, of which up to `task_questions` of each task are asked. `safety`: a folder of
    prompts that should be refused, of which up to `safety_prompts` of each set are answered. The suite `quick` takes
    fewer of both.

    `allow_newer_transformers`: a checkpoint that a newer transformers wrote is held to the installed one, not refused.
    """

    text: Path | None = None
    tokens: int = 4096
    window: int = 512
    greedy_prompts: int = 8
    greedy_prompt_tokens: int = 32
    greedy_new_tokens: int = 16
    allow_newer_transformers: bool = False
    suite: Suite = "accuracy"
    tasks: Path | None = None
    task_questions: int = 200
    safety: Path | None = None
    safety_prompts: int = 32

    @property
    def tokens_read(self) -> int:
        """Tokens of the text that the suite reads."""
        return min(self.tokens, QUICK_TOKENS) if self.suite == "quick" else self.tokens

    @property
    def longest_sequence(self) -> int | None:
        """Tokens of the longest sequence past an edge that the suite reads; None for any number."""
        return QUICK_SEQUENCE_TOKENS if self.suite == "quick" else None

    @property
    def questions_asked(self) -> int:
        """The most questions of each task that the suite asks."""
        return min(self.task_questions, _QUICK_QUESTIONS) if self.suite == "quick" else self.task_questions

    @property
    def compares_safety(self) -> bool:
        """Whether answers to prompts that should be refused, or only look so, are compared."""
        return self.suite in ("quick", "full") or self.safety is not None

    @property
    def prompts_asked(self) -> int:
        """The most prompts of each set that the suite asks."""
        return min(self.safety_prompts, _QUICK_PROMPTS) if self.suite == "quick" else self.safety_prompts

    @property
    def prompt_answer_tokens(self) -> int:
        """The most tokens of an answer to a prompt of a set."""
        return _QUICK_ANSWER_TOKENS if self.suite == "quick" else _ANSWER_TOKENS
