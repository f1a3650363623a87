"""What a validation reads: the settings that the project file's `[evaluation]` and the command line give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EvaluationSettings:
    """What is read: `tokens` in windows of `window`. Greedy continuations start from the first windows' heads."""

    text: Path | None = None
    tokens: int = 4096
    window: int = 512
    greedy_prompts: int = 8
    greedy_prompt_tokens: int = 32
    greedy_new_tokens: int = 16
