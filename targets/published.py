"""Scores that vendors have published, next to which measured ones are shown. Never compared with them by a gate.

They come from one vendor's harness, prompts and number of examples; another harness gives Phi-3-mini 62 on MMLU in
place of 70.9. What a bundle loses is measured against its own checkpoint in the same harness instead. Source: the model
cards of microsoft/Phi-3-mini-4k-instruct, -mini-128k-instruct, -small-8k-instruct and -medium-4k-instruct on Hugging
Face.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_MODELS = (
    *("Phi-3-mini-4k-instruct", "Phi-3-mini-128k-instruct", "Phi-3-small-8k-instruct", "Phi-3-medium-4k-instruct"),
    *("Llama-3-8B-Instruct", "Mixtral 8x7B", "GPT-3.5-Turbo"),
)
# Benchmark -> model -> score in percent.
PUBLISHED: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        name: MappingProxyType(dict(zip(_MODELS, scores, strict=True)))
        for name, scores in {
            "MMLU": (70.9, 69.7, 75.7, 78.0, 66.5, 70.5, 71.4),
            "HellaSwag": (75.3, 70.5, 77.0, 82.4, 71.1, 70.4, 78.8),
            "GSM8K": (85.7, 85.3, 89.6, 91.0, 77.4, 64.7, 78.1),
            "ARC-C": (86.3, 85.5, 90.7, 91.6, 82.8, 87.3, 87.4),
        }.items()
    }
)
