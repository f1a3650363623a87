"""What all groups of checks look at: a bundle in its open session, the reference, and one sequence of tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from builders.oracle.transformers_text import TextTruth
from builders.reference import FloatReference
from builders.runtime.session import Session
from builders.tokenizer import Tokenizer
from builders.validation.behaviour.yardstick import Yardstick, fewest_bits, measure_yardstick
from builders.validation.lengths import edges_of, is_exact
from registry.bundle.folder import Bundle
from registry.bundle.manifest import ModelEntry
from targets.architecture import Architecture
from targets.evaluation import QUICK_SEQUENCE_TOKENS, Suite
from targets.progress import Progress, silent

Logits = NDArray[np.float32]
ORDINARY_TOKENS = 96  # at most, from the start of the sequence: what is far from any edge
_FIRST_SPECIAL, _MOST_SPECIAL = 8, 24
PAST = 3  # tokens past an edge that are compared
NO_ADDED = "the checkpoint's tokenizer adds no tokens to the vocabulary"  # so there is nothing to compare


@dataclass(frozen=True)
class Sample:
    """How much is checked. `edge_tokens`: the longest sequence. `every`: of so many conversations one is rendered."""

    edge_tokens: int = 8192
    every: int = 1


QUICK = Sample(edge_tokens=QUICK_SEQUENCE_TOKENS, every=4)


def sample_of(suite: Suite) -> Sample:
    """Return how much a suite checks."""
    return QUICK if suite == "quick" else Sample()


@dataclass(frozen=True)
class Subject:
    """A bundle under check. `truth`: what transformers makes of the checkpoint's text.

    `tokens`: a sequence at least as long as `last`. `tokenizer`: the checkpoint's.
    """

    bundle: Bundle
    session: Session
    reference: FloatReference
    truth: TextTruth
    tokenizer: Tokenizer
    tokens: NDArray[np.int64]
    sample: Sample
    on_progress: Progress = silent

    @property
    def model(self) -> ModelEntry:
        """The manifest's facts on the model."""
        return self.bundle.manifest.model

    @cached_property
    def edges(self) -> dict[str, int]:
        """The longest sequence before each change, by what changes."""
        return edges_of(self.reference.checkpoint.architecture, self.model.context_length)

    @cached_property
    def lengths(self) -> dict[int, str]:
        """Lengths of sequences that are compared, with where they lie."""
        return compared_lengths(self.edges, self.model.context_length, self.sample.edge_tokens)

    @property
    def last(self) -> int:
        """The longest sequence that is compared."""
        return longest_compared(self.lengths, self.model.context_length)

    @cached_property
    def ordinary(self) -> int:
        """How many tokens at the start of the sequence are far from any edge."""
        return ordinary_tokens(self.edges)

    @cached_property
    def special(self) -> list[int]:
        """Ids of the tokens that transformers adds to the vocabulary, as far as the model has rows for them."""
        return special_ids(self.truth, self.model)

    def is_exact(self, length: int) -> bool:
        """Whether the manifest says that the runtime computes sequences of this length as the checkpoint does."""
        return is_exact(self.model, length)

    def parts(self) -> list[tuple[int, int]]:
        """Return first and last length of each part of the sequence in which all lengths share longrope's factors."""
        return parts_of(self.reference.checkpoint.architecture, self.model.context_length, self.last)

    def expected(self, lengths: list[int]) -> Logits:
        """Return the reference's logits [n, vocabulary] after sequences of these lengths."""
        rows = []
        for length in lengths:
            part = next(last for first, last in self.parts() if first <= length <= last)
            rows.append(self._hidden[part][length - 1])
        return self.reference.logits(np.stack(rows))

    @cached_property
    def _hidden(self) -> dict[int, NDArray[np.float32]]:
        return {last: self.reference.hidden(self.tokens[None, :last])[0] for _, last in self.parts()}

    @cached_property
    def yardstick(self) -> Yardstick:
        """How far the bundle may be from the reference."""
        ordinary = self.tokens[: self.ordinary]
        bits = fewest_bits(self.bundle.manifest)

        def expected() -> Logits:
            return self.expected([*range(1, self.ordinary + 1)])

        return measure_yardstick(self.reference, ordinary, expected, bits, self.special)


def longest_compared(lengths: Collection[int], context_length: int) -> int:
    """Return the longest sequence that is compared, by the lengths around edges."""
    return max(lengths, default=min(ORDINARY_TOKENS, context_length))


def ordinary_tokens(edges: Mapping[str, int]) -> int:
    """Return how many tokens at the start of a sequence are far from any edge."""
    return min(ORDINARY_TOKENS, *edges.values())


def parts_of(architecture: Architecture, context_length: int, last: int) -> list[tuple[int, int]]:
    """Return first and last length of each part of a sequence in which all lengths share longrope's factors."""
    edge = architecture.longrope_edge(context_length)
    return [(1, last)] if edge is None or edge >= last else [(1, edge), (edge + 1, last)]


def special_ids(truth: TextTruth, model: ModelEntry) -> list[int]:
    """Return the ids of the tokens that transformers adds to the vocabulary, as far as the model has rows for them."""
    return sorted(number for number in set(truth.added.values()) if number < model.vocabulary_size)


def with_special_tokens(tokens: NDArray[np.int64], special: list[int]) -> NDArray[np.int64]:
    """Return a sequence with some of these tokens in it, near its start: their rows of the embedding count, too."""
    found = tokens.copy()
    stop = min(_FIRST_SPECIAL + min(len(special), _MOST_SPECIAL), len(found))
    found[_FIRST_SPECIAL:stop] = special[: max(0, stop - _FIRST_SPECIAL)]
    return found


def compared_lengths(edges: dict[str, int], context_length: int, longest: int) -> dict[int, str]:
    """Return the lengths around each edge that are within the context, shortest first, with where they lie."""
    found: dict[int, str] = {}
    for name, edge in edges.items():
        if edge > longest:
            continue
        for length in range(max(1, edge - 1), min(edge + PAST, context_length) + 1):
            off = length - edge
            found[length] = f"at {name}" if off == 0 else f"{abs(off)} {'past' if off > 0 else 'before'} {name}"
    return dict(sorted(found.items()))
