"""Scores that vendors have published, next to which measured ones are shown. Never compared with them by a gate.

They are in percent, of unquantized models, from one vendor's harness, prompts and number of examples: the tables
"Benchmarks" of microsoft/Phi-3-mini-4k-instruct, -mini-128k-, -small-8k- and -medium-4k-instruct on Hugging Face.
Another harness gives Phi-3-mini 62 on MMLU in place of 70.9. What a bundle loses is measured against its own checkpoint
in the same harness instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SOURCE = "model cards of Phi-3 on Hugging Face"
MODELS = ("mini-4k", "mini-128k", "small-8k", "medium-4k", "Llama-3-8B", "Mixtral 8x7B", "GPT-3.5")
# Benchmark -> score of each model.
PUBLISHED: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "MMLU": (70.9, 69.7, 75.7, 78.0, 66.5, 70.5, 71.4),
        "HellaSwag": (75.3, 70.5, 77.0, 82.4, 71.1, 70.4, 78.8),
        "GSM8K": (85.7, 85.3, 89.6, 91.0, 77.4, 64.7, 78.1),
        "ARC-C": (86.3, 85.5, 90.7, 91.6, 82.8, 87.3, 87.4),
    }
)
