"""How many texts a runtime's own tokenizer splits alike."""

from __future__ import annotations

from builders.checkpoint import Checkpoint
from builders.tokenizer import tokenizer_of
from builders.validation.tokens import runtime_tokens_share
from registry.bundle.folder import Bundle


def test_where_nothing_was_compared_there_is_no_share(bundle: Bundle, tiny: Checkpoint) -> None:
    assert runtime_tokens_share(bundle, tokenizer_of(tiny), "\n  \n") is None
    share = runtime_tokens_share(bundle, tokenizer_of(tiny), "the town\n\nin the morning\n")
    assert share is not None
    assert 0 <= share <= 1
