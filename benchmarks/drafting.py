"""What the answers of a suite cost a large model: processor seconds of the reference and of a bundle, and the walks.

Run `python -m benchmarks.drafting CHECKPOINT BUNDLE…`. Nothing is taken from a cache, and weights are read in each walk
whatever the model's size, so that two layers of a model show what all of them cost. Printed of each bundle:

    accepted    the share of the reference's own tokens that the bundle writes too after what comes before them
    reference   processor seconds of this process for answers to the built-in prompts, and for safety's first tokens
    bundle      those of the bundle's process
    walks       tokens that each walk over the layers has read
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.reference import FloatReference, sequences
from builders.runtime.isolation import IsolatedSession, open_isolated
from builders.tokenizer import tokenizer_of
from builders.validation.answers import Answered, answer_for_suite
from builders.validation.measurement import Measurement
from builders.validation.prompts import compare_prompts
from builders.validation.text import BUILT_IN_NAME, read_text
from registry.bundle.folder import Bundle, open_bundle
from targets.evaluation import EvaluationSettings, Suite
from targets.evidence_details import Details
from targets.progress import silent


class Counted(sequences.Sequences):
    """Sequences that note how many tokens each walk reads."""

    walks: list[int]

    def read(self, new: Mapping[int, Sequence[int]]) -> dict[int, NDArray[np.float32]]:
        """Read, and note how much."""
        self.walks.append(sum(map(len, new.values())))
        return super().read(new)


class CountingReference(FloatReference):
    """A reference whose walks are noted."""

    def sequences(self, rooms: Sequence[int]) -> Counted:
        """Return empty sequences that are counted."""
        found = Counted(self.checkpoint.architecture, self._source, rooms)
        found.walks = _WALKS
        return found


_WALKS: list[int] = []


def measure(checkpoint: Checkpoint, bundle: Bundle, suite: Suite) -> str:
    """Answer the prompts of a suite with both, and return a line of figures."""
    _WALKS.clear()
    with tempfile.TemporaryDirectory() as cache, open_isolated(bundle) as session:
        reference = CountingReference(checkpoint, Path(cache))
        reference.logits(np.zeros((1, checkpoint.architecture.hidden_size), np.float32))  # reads the head
        tokenizer = tokenizer_of(checkpoint)
        using = Measurement(bundle, session, reference, tokenizer, read_text(None), BUILT_IN_NAME, silent)
        before, bundle_before = time.process_time(), _seconds(session)
        answered = answer_for_suite(using, suite)
        compare_prompts(using, EvaluationSettings(suite=suite), answered, Details(suite=suite))
        took, bundle_took = time.process_time() - before, _seconds(session) - bundle_before
        share = accepted(session, answered)
    return f"accepted {share:.3f}, reference {took:.1f} s, bundle {bundle_took:.1f} s, walks {_WALKS}"


def accepted(session: IsolatedSession, answered: Answered) -> float:
    """Return the share of the reference's tokens that are the bundle's likeliest after those before them."""
    same = 0
    for pair in answered.pairs:
        logits = session.score(np.asarray([*pair.prompt, *pair.reference[:-1]], np.int64))
        same += int((logits[len(pair.prompt) - 1 :].argmax(-1) == np.asarray(pair.reference)).sum())
    return same / sum(len(pair.reference) for pair in answered.pairs)


def _seconds(session: IsolatedSession) -> float:
    """Return the processor seconds that a bundle's process has used (Linux)."""
    fields = Path(f"/proc/{session.process_id}/stat").read_text("ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, a bundle at a time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--suite", choices=("quick", "behaviour", "full"), default="quick")
    asked = parser.parse_args()
    sequences.RESIDENT_BYTES = 0
    checkpoint = open_checkpoint(asked.checkpoint)
    _ = checkpoint.digest  # not a part of what is measured
    for folder in asked.bundles:
        bundle = open_bundle(folder)
        print(f"{bundle.manifest.recipe.name}: {measure(checkpoint, bundle, asked.suite)}", flush=True)


if __name__ == "__main__":
    main()
