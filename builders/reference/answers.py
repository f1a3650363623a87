"""The reference's own greedy answers, in few walks over the layers: the bundle drafts, the reference corrects.

One walk says what the reference would have written after every token of a draft. Up to the first that differs, the
draft is the reference's answer, and so is the token that the walk puts in its place; the bundle then drafts what
follows. It takes as many walks as the most corrected answer has corrections, and one more, not one walk a token. The
tokens are those of greedy decoding, whatever is drafted: speculative decoding (arXiv 2211.17192) with a greedy target.

Answers are cached, as they depend on the checkpoint alone:

    CACHE/CHECKPOINT-PROMPTS-ARCHITECTURE-N.answers    [P, 1 + count]: how many tokens, then the tokens
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from builders.reference.logits import FloatReference

# Of several sequences: ids so far, how many may follow each -> what follows each.
Draft = Callable[[Sequence[Sequence[int]], Sequence[int]], list[list[int]]]


def reference_answers(
    reference: FloatReference,
    prompts: Sequence[Sequence[int]],
    count: int,
    stops: Collection[int],
    draft: Draft,
    *,
    most_walks: int | None = None,
) -> list[list[int]]:
    """Return the likeliest `count` tokens after each prompt, fewer where one of `stops` comes first, which is included.

    With longrope, a prompt on the short side of its edge must leave room for the answer there: a walk reads all tokens
    of a sequence with the factors of its whole length.

    `draft`: continues each sequence by at least one token; the better it guesses, the fewer walks. An answer that takes
    more than `most_walks` is cut where it is known to, and has neither its tokens nor a stop id at its end.
    """
    key = padded([[count, *sorted(stops)], *([len(prompt), *prompt] for prompt in prompts)])
    known = reference.cached(key, "answers", (len(prompts), 1 + count))
    if known is not None:
        rows = known.astype(np.int64)
        return [row[1 : 1 + row[0]].tolist() for row in rows]
    answers: list[list[int]] = [[] for _ in prompts]
    walks = 0
    while unfinished := [number for number, ids in enumerate(answers) if not _is_finished(ids, count, stops)]:
        if walks == most_walks:
            return answers
        walks += 1
        so_far = [[*prompts[number], *answers[number]] for number in unfinished]
        drafts = draft(so_far, [count - len(answers[number]) for number in unfinished])
        drafted = [[*ids, *more] for ids, more in zip(so_far, drafts, strict=True)]
        likeliest = {
            place: row
            for places, rows in batches(reference, drafted)
            for place, row in zip(places, reference.likeliest(rows), strict=True)
        }
        for place, (number, ids, more) in enumerate(zip(unfinished, so_far, drafts, strict=True)):
            # After each token, from the last known one on.
            wanted = likeliest[place][len(ids) - 1 : len(ids) + len(more)].tolist()
            same = common_start(more, wanted)
            answers[number] += _until_stop(wanted[: same + 1], stops)[: count - len(answers[number])]
    reference.keep(key, "answers", np.asarray([_row(ids, count) for ids in answers], dtype=np.float32))
    return answers


def padded(sequences: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return sequences in rows [B, T], filled up at the end with zeros: no token sees what comes after it."""
    rows = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    for row, ids in zip(rows, sequences, strict=True):
        row[: len(ids)] = ids
    return rows


def batches(
    reference: FloatReference, sequences: Sequence[Sequence[int]]
) -> Iterator[tuple[list[int], NDArray[np.int64]]]:
    """Yield the places of sequences that may be read together, and their rows, filled up at the end.

    A row's length decides longrope's factors, so that none is filled up past the edge.
    """
    longrope = reference.checkpoint.architecture.longrope
    edge = max(map(len, sequences), default=0) if longrope is None else longrope.original_context
    for is_long in (False, True):
        places = [place for place, ids in enumerate(sequences) if (len(ids) > edge) == is_long]
        if places:
            yield places, padded([sequences[place] for place in places])


def common_start(one: Sequence[object], other: Sequence[object]) -> int:
    """Return the number of elements before the first that differs, or that only one of them has."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (first, second) in pairs if first != second), min(len(one), len(other)))


def _is_finished(ids: Sequence[int], count: int, stops: Collection[int]) -> bool:
    return len(ids) >= count or (len(ids) > 0 and ids[-1] in stops)


def _until_stop(ids: list[int], stops: Collection[int]) -> list[int]:
    place = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return ids[: place + 1]


def _row(ids: Sequence[int], count: int) -> list[int]:
    return [len(ids), *ids, *[0] * (count - len(ids))]
