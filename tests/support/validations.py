"""Settings of a validation that reads little, and a speed of the host that need not be measured."""

from __future__ import annotations

from builders.validation.speed import Speed
from targets.evaluation import EvaluationSettings

BRIEF = EvaluationSettings(tokens=256, window=64, greedy_prompts=3, greedy_prompt_tokens=8, greedy_new_tokens=6)
STEADY = Speed((100.0, 110.0, 105.0), (20.0, 20.5, 21.0), 1, 0.1)
