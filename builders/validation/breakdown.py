"""Divergence by text, by position and by kind of token: what the averages hide.

Positions are cut at the sliding window and at longrope's edge, as the checkpoint has them, and at some powers of two
that are not close to these.
A kind of token is that of the next token, by its text:

    special        an added token, such as <|end|>
    digits         has a digit and no letter
    words          has a Latin letter
    other scripts  has a letter of another script, or a part of a character that is no ASCII
    punctuation    all else: punctuation, symbols, white space
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator

import numpy as np

from builders.reference import token_digest
from builders.tokenizer import Tokenizer
from builders.validation.compare import NO_TOKEN, Rows
from builders.validation.standard_error import standard_error
from targets.architecture import Architecture
from targets.evidence_details import ClassDivergence, Divergence, PositionDivergence, Prediction, TextDivergence

KINDS = ("words", "digits", "punctuation", "other scripts", "special")
_RANGES = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536)  # their last positions
_SURPRISE_DECIMALS = 4  # of a sum over a block, in nats: its mean is exact to a millionth
_REPLACEMENT = "\ufffd"  # what a part of a character is decoded to


def text_divergence(text: str, rows: Rows) -> TextDivergence | None:
    """Return the divergence on one text; None for one too short for a standard error."""
    found = _divergence(rows)
    return (
        None
        if found is None
        else TextDivergence(text=text, perplexity_ratio=rows.perplexity_ratio(), **found.model_dump())
    )


def position_divergences(rows: Rows, architecture: Architecture, context_length: int) -> Iterator[PositionDivergence]:
    """Yield the divergences of ranges of positions. Ranges with too few tokens for a standard error are left out."""
    here = {name: edge for name, edge in architecture.edges(context_length).items() if edge < rows.position.max()}
    regular = {end for end in _RANGES if not any(0.75 * edge < end < 1.5 * edge for edge in here.values())}
    ends = sorted({*regular, *here.values(), int(rows.position.max())})
    for first, last in zip([1, *(end + 1 for end in ends)], ends, strict=False):
        found = _divergence(rows.where((rows.position >= first) & (rows.position <= last)))
        if found is not None:
            where = " and ".join(f"past {name}" for name, edge in here.items() if first > edge)
            yield PositionDivergence(first=first, last=last, where=where, **found.model_dump())


def kind_divergences(rows: Rows, tokenizer: Tokenizer) -> Iterator[ClassDivergence]:
    """Yield the divergences of kinds of next tokens. Kinds with too few tokens for a standard error are left out."""
    kind_of = token_kinds(tokenizer)
    ids, places = np.unique(rows.following, return_inverse=True)
    kinds = np.asarray(["" if token == NO_TOKEN else kind_of(int(token)) for token in ids])[places]
    for kind in KINDS:
        found = _divergence(rows.where(kinds == kind))
        if found is not None:
            yield ClassDivergence(kind=kind, **found.model_dump())


def token_kinds(tokenizer: Tokenizer) -> Callable[[int], str]:
    """Return a function from a token's id to its kind."""
    added = tokenizer.added_tokens()
    return lambda token: "special" if token in added else text_kind(tokenizer.decode([token]))


def text_kind(text: str) -> str:
    """Return the kind of a token that is not an added one, by its text."""
    letters = [character for character in text if character.isalpha() or character == _REPLACEMENT]
    if letters:
        return "words" if all(map(_is_latin, letters)) else "other scripts"
    return "digits" if any(character.isdigit() for character in text) else "punctuation"


def _is_latin(character: str) -> bool:
    return character.isascii() or unicodedata.name(character, "").startswith("LATIN ")


def _divergence(rows: Rows) -> Divergence | None:
    error = standard_error(rows.kl, rows.block) if len(rows.kl) else None
    if error is None:
        return None
    return Divergence(
        tokens=len(rows.kl),
        kl_mean=float(rows.kl.mean()),
        kl_standard_error=error,
        same_top_share=float(rows.same_top.mean()),
        prediction=_prediction(rows),
    )


def _prediction(rows: Rows) -> Prediction | None:
    """Return how well the next tokens are predicted; None where the reference rules out all of them."""
    possible = rows.where(~np.isnan(rows.reference_surprise))
    if not len(possible.kl):
        return None
    numbers = np.unique(possible.block, return_inverse=True)[1]
    sums = np.bincount(numbers, weights=possible.reference_surprise)
    with np.errstate(over="ignore"):  # infinite where the bundle rules a token out
        perplexities = [float(np.exp(each.mean())) for each in (possible.reference_surprise, possible.surprise)]
    return Prediction(
        digest=token_digest(np.stack([possible.position, possible.following])),
        reference_perplexity=perplexities[0],
        perplexity=perplexities[1],
        block_tokens=tuple(np.bincount(numbers).tolist()),
        reference_surprise=tuple(np.round(sums, _SURPRISE_DECIMALS).tolist()),
    )
