"""`BenchRun`: what a runtime's own benchmark says of one repeat, whichever runtime it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchRun:
    """One repeat: what it took to process the prompt, and to generate tokens.

    `peak_bytes`: peak resident memory, where the program itself says it.
    """

    prompt_tokens: int
    prompt_seconds: float
    decode_tokens: int
    decode_seconds: float
    version: str | None = None
    backend: str | None = None
    threads: int | None = None
    batch_size: int | None = None
    peak_bytes: int | None = None

    @property
    def prefill_tokens_per_second(self) -> float:
        """Tokens of the prompt a second."""
        return self.prompt_tokens / self.prompt_seconds

    @property
    def decode_tokens_per_second(self) -> float:
        """Generated tokens a second."""
        return self.decode_tokens / self.decode_seconds
