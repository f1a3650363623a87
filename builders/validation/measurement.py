"""What all figures of a bundle are measured with, and the comparison of windows that most of them come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from builders.reference import FloatReference
from builders.runtime.session import Session
from builders.tokenizer import Tokenizer
from builders.validation.compare import Comparison, Rows
from registry.bundle.folder import Bundle
from targets.evidence import FIGURES, Figure
from targets.progress import Progress, Step


@dataclass(frozen=True)
class Measurement:
    """What all figures are measured with: a bundle and its open session, the reference, and the text."""

    bundle: Bundle
    session: Session
    reference: FloatReference
    tokenizer: Tokenizer
    text: str
    text_name: str
    on_progress: Progress

    @cached_property
    def text_tokens(self) -> int:
        """How many tokens the text has."""
        return len(self.tokenizer.encode(self.text))


def compare(
    using: Measurement,
    session: Session,
    windows: NDArray[np.int64],
    hidden: NDArray[np.float32],
) -> Rows:
    """Run windows [W, T] through a session, and compare the answers with the reference's.

    `hidden`: the reference's hidden states of them.
    """
    comparison = Comparison()
    using.on_progress(Step("compare", 0, windows.size, "tokens"))
    answers = session.score_each([*windows])
    for number, (states, tokens, found) in enumerate(zip(hidden, windows, answers, strict=True), 1):
        comparison.add(using.reference.logits(states), found, tokens)
        using.on_progress(Step("compare", number * windows.shape[1], windows.size, "tokens"))
    return comparison.rows


def measured(values: Mapping[str, float], on: str) -> dict[str, Figure]:
    """Return measured values as figures. `on`: what they were measured on."""
    return {
        name: Figure(value=float(value), unit=FIGURES[name][0], kind="measured", on=on)
        for name, value in values.items()
    }


def compared(values: Mapping[str, float], on: str, runtime: str) -> dict[str, Figure]:
    """Return measured values as figures: the bundle's ran in `runtime`, the reference's own (`reference_…`) in float32.

    `on`: the text or the prompts of both.
    """
    own = {name: value for name, value in values.items() if name.startswith("reference_")}
    others = {name: value for name, value in values.items() if name not in own}
    return measured(others, f"{on}, {runtime}") | measured(own, f"{on}, the checkpoint in float32")
