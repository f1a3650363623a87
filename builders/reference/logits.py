"""`FloatReference`: the checkpoint's own answers, in float32, to evaluation windows and prompts.

Hidden states are kept (hidden_size numbers a token); logits are computed from them window by window (vocabulary_size
numbers a token). Hidden states are cached:

    CACHE/CHECKPOINT-TOKENS-ARCHITECTURE-N-TOOLS.hidden    [W, T, hidden]
    CACHE/CHECKPOINT-TOKENS-ARCHITECTURE-N-TOOLS.squares   the activation statistics, matrix after matrix, then the
                                                     ranges of keys and values
    CACHE/CHECKPOINT-TOKENS-ARCHITECTURE-N-TOOLS.words     what it writes after a prompt, and .state, the hidden state
                                                     there: words.py

They are files of numbers (number_file.py). The name has 16 hex digits of each digest, the number of the forward pass,
and 8 digits for the versions of torch and numpy. The architecture is what was read from `config.json`: another reading
of the same file is another reference.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint, TensorSource
from builders.reference.cache_ranges import CacheRanges, ranges_shape
from builders.reference.forward import StatisticsWalk, hidden_states
from builders.reference.number_file import prepare_folder, read_numbers, write_numbers
from builders.reference.products import product
from builders.reference.sequences import Sequences
from builders.reference.statistics import MeanSquares, Statistics, multiplied
from builders.tool_versions import WALK_TOOLS, versions_digest
from registry.files.owned import require_own_folder
from targets.progress import Progress, Step, silent

if TYPE_CHECKING:
    from torch import Tensor

STATISTICS = "squares"  # what ends the name of a file of statistics
_LOGIT_ROWS = 128  # whose logits are in memory at once: 100 MB with 200,000 tokens
_FORWARD_PASS = 5  # raise it when the forward pass computes other numbers: older files are then not read


@dataclass(frozen=True)
class FloatReference:
    """A checkpoint's float32 answers. `cache`: folder of hidden states, or None to keep none."""

    checkpoint: Checkpoint
    cache: Path | None = None
    on_progress: Progress = silent

    def hidden(self, windows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return hidden states after the last norm, [W, T, hidden], of windows [W, T], cached or computed."""
        found = self.cached(windows, "hidden", (*windows.shape, self.checkpoint.architecture.hidden_size))
        if found is None:
            found = self.states(windows)
            self.keep(windows, "hidden", found)
        return found

    def statistics(self, windows: NDArray[np.int64]) -> Statistics:
        """Return the mean square of what each matrix's columns are multiplied with, cached or computed."""
        names, ends = multiplied(self.checkpoint.architecture), self._ends
        return dict(zip(names, np.split(self._measured(windows)[: ends[-1]], ends[:-1]), strict=True))

    def cache_ranges(self, windows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return how large keys and values become, `CacheRanges`' numbers [layers, numbers], cached or computed."""
        return self._measured(windows)[self._ends[-1] :].reshape(ranges_shape(self.checkpoint.architecture))

    @property
    def _ends(self) -> NDArray[np.int64]:
        """Where each matrix's statistics end in the file."""
        shapes = self.checkpoint.architecture.tensor_shapes()
        return np.cumsum([shapes[name][1] for name in multiplied(self.checkpoint.architecture)])

    def _measured(self, windows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the numbers of the file of statistics."""
        size = int(self._ends[-1]) + math.prod(ranges_shape(self.checkpoint.architecture))
        cached = self.cached(windows, STATISTICS, (size,))
        return self._walk(windows) if cached is None else cached

    def _walk(self, windows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Measure the numbers of the file of statistics, and keep them. Products are bfloat16's: see `products.py`."""
        architecture = self.checkpoint.architecture
        squares, ranges = MeanSquares(), CacheRanges(architecture)
        StatisticsWalk(architecture, self._source, windows, squares, observe_cache=ranges).run_all(self.on_progress)
        found = squares.means()
        statistics = np.concatenate([*(found[name] for name in multiplied(architecture)), ranges.all().ravel()])
        self.keep(windows, STATISTICS, statistics)
        return statistics

    def cached(
        self, windows: NDArray[np.int64], kind: str, shape: tuple[int, ...] | None
    ) -> NDArray[np.float32] | None:
        """Return numbers of a kind that were kept for these windows; None where there are none.

        `shape`: None for any number of them, in one dimension.
        """
        return None if self.cache is None else _load(self._cache_file(windows, kind), shape)

    def keep(self, windows: NDArray[np.int64], kind: str, numbers: NDArray[np.float32]) -> None:
        """Keep numbers that depend on the checkpoint and on these windows, where there is a cache.

        Raises `CheckpointError` where the checkpoint's files have changed since it was opened.
        """
        if self.cache is not None:
            self.checkpoint.require_unchanged()
            _save(self._cache_file(windows, kind), numbers)

    def _cache_file(self, windows: NDArray[np.int64], kind: str) -> Path:
        assert self.cache is not None
        return self.cache / f"{self.name_of(windows)}.{kind}"

    def name_of(self, windows: NDArray[np.int64]) -> str:
        """Return what names files that depend on the checkpoint, on these windows and on what computes them."""
        architecture = hashlib.sha256(repr(self.checkpoint.architecture).encode()).hexdigest()
        digests = (self.checkpoint.digest, token_digest(windows), architecture)
        return f"{'-'.join(_short(digest) for digest in digests)}-{_FORWARD_PASS}-{versions_digest(WALK_TOOLS)}"

    def logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits [T, vocabulary] of hidden states [T, hidden]; minus infinity for hidden ids."""
        import torch

        architecture = self.checkpoint.architecture
        with torch.inference_mode():
            logits = product(torch.from_numpy(hidden.copy()), self._head)
            logits /= architecture.logit_divisor
            logits[:, list(architecture.hidden_token_ids)] = -torch.inf
            return np.asarray(logits.numpy())

    def likeliest(self, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the likeliest next token after each token of sequences [B, T]: [B, T]. Not cached."""
        return np.stack([self.likeliest_after(states) for states in self.states(sequences)])

    def likeliest_after(self, states: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the likeliest next token by each of hidden states [T, hidden]."""
        parts = [states[start : start + _LOGIT_ROWS] for start in range(0, len(states), _LOGIT_ROWS)]
        return np.concatenate([self.logits(part).argmax(-1) for part in parts])

    def states(self, sequences: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return hidden states after the last norm, [B, T, hidden], of sequences [B, T]. Not cached."""
        return hidden_states(self.checkpoint.architecture, self._source, sequences, self.on_progress)

    def sequences(self, rooms: Sequence[int]) -> Sequences:
        """Return empty sequences that can be read on, of at most so many tokens each."""
        return Sequences(self.checkpoint.architecture, self._source, rooms)

    def greedy(self, prompts: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Continue prompts [P, T] by the likeliest token, `count` times: [P, count].

        Each token takes one walk over the layers for all prompts together, so that a checkpoint may have any size.
        """
        tokens = prompts
        for made in range(count):
            self.on_progress(Step("reference", made, count, "tokens"))
            last = hidden_states(self.checkpoint.architecture, self._source, tokens)[:, -1]
            tokens = np.concatenate([tokens, self.logits(last).argmax(-1)[:, None]], axis=1)
        return tokens[:, prompts.shape[1] :]

    @cached_property
    def _source(self) -> TensorSource:
        return self.checkpoint.open_tensors()

    @cached_property
    def _head(self) -> Tensor:
        import torch

        return torch.from_numpy(self._source.tensor(self.checkpoint.architecture.head_tensor))


def token_digest(tokens: NDArray[np.int64]) -> str:
    """Return `sha256:<hex>` of shape and ids: by this evidence names the text it was measured on."""
    raw = repr(tokens.shape).encode() + np.ascontiguousarray(tokens, dtype="<i8").tobytes()
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:16]


def _load(path: Path, shape: tuple[int, ...] | None) -> NDArray[np.float32] | None:
    """Return cached numbers, or None; a damaged or foreign file counts as none."""
    try:
        require_own_folder(path.parent)
        numbers = read_numbers(path)
    except OSError:
        return None
    if shape is None:
        return numbers
    return numbers.reshape(shape) if numbers.size == math.prod(shape) else None


def _save(path: Path, states: NDArray[np.float32]) -> None:
    prepare_folder(path.parent)
    write_numbers(path, [states])
