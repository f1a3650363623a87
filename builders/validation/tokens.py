"""Whether a runtime's own tokenizer splits text as the bundle's tokenizer files do: some apps use the runtime's."""

from __future__ import annotations

from builders.runtime.generation import render_prompt
from builders.runtime.text_engines import open_runtime_text
from builders.tokenizer import Tokenizer
from registry.bundle.folder import Bundle

LINES = 400  # of the text that are compared, each as it is and as a user's turn in the chat template


def runtime_tokens_share(bundle: Bundle, tokenizer: Tokenizer, text: str) -> float | None:
    """Return the share of texts whose ids are the same in both; None where none can be compared.

    That is the case of a text without lines, and of a format whose tokenizer can't be run here.

    Raises:
        MeasurementError: the runtime can't read the bundle's tokenizer.
    """
    lines = [line for line in text.splitlines() if line.strip()][:LINES]
    if not lines:
        return None
    tried = lines + [render_prompt(bundle, line) for line in lines]
    with open_runtime_text(bundle) as engine:
        if engine is None:
            return None
        return sum(engine.encode(each) == tokenizer.encode(each) for each in tried) / len(tried)
