"""A bundle's own files as a text engine: an app may use them with any runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from builders.runtime.generation import bundled_template, greedy
from builders.runtime.text_engine import Messages, Tools, rendered
from builders.tokenizer import Tokenizer, read_special_tokens
from registry.bundle.folder import Bundle


@dataclass(frozen=True)
class BundledText:
    """Implements `builders.runtime.text_engine.TextEngine`, as `phipack generate` does.

    By tokenizer.json, chat_template.jinja and the manifest.
    """

    bundle: Bundle
    tokenizer: Tokenizer
    name: str = "the bundle's files"

    @property
    def bos_id(self) -> int | None:
        """The manifest's."""
        return self.bundle.manifest.generation.bos_token_id

    @property
    def adds_bos(self) -> bool:
        """Whether tokenizer.json puts it there."""
        before, _ = self.tokenizer.put_around()
        return bool(before)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return self.tokenizer.encode(text)

    def id_of(self, token: str) -> int | None:
        """Return the id of a token."""
        return self.tokenizer.vocabulary().get(token)

    def render(self, messages: Messages, tools: Tools | None, *, add_generation_prompt: bool) -> str | None:
        """Return a conversation in chat_template.jinja."""
        return rendered(
            bundled_template(self.bundle), messages, read_special_tokens(self.bundle.path), tools, add_generation_prompt
        )

    def ends(self, tokens: Sequence[int]) -> dict[int, bool]:
        """Drive `phipack generate`'s own loop with a session whose only answer is the token."""
        stop_ids = frozenset(self.bundle.manifest.generation.stop_token_ids)
        return {token: not list(greedy(_Always(token), [0], 1, stop_ids)) for token in tokens}


class _Always:
    """A session whose likeliest token is always the same one: as far as generation asks."""

    def __init__(self, token: int) -> None:
        self._logits = np.zeros(token + 1, np.float32)
        self._logits[token] = 1

    def prefill(self, _tokens: object) -> NDArray[np.float32]:
        return self._logits

    def step(self, _token: int) -> NDArray[np.float32]:
        return self._logits
