"""Chat templates by llama.cpp's C library, which has no Jinja: it knows some templates by what they contain.

Apps on phones call `llama_chat_apply_template` for them. It takes a template for one that it knows wherever a few words
are in it, and then writes that one's line breaks, whatever the template itself says: Phi-4-mini's, which has none,
it writes as Phi-3's. Source: llama.cpp's src/llama-chat.cpp.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

from builders.checkpoint import Checkpoint
from builders.tokenizer import tokenizer_of
from builders.tokenizer.probes import CONVERSATIONS, render_conversation

FUNCTION = "llama.cpp's llama_chat_apply_template"  # how notes on it begin
_FIX = "render the template with an engine for Jinja"


def apply_known_template(template: str, messages: Sequence[Mapping[str, str]]) -> str | None:
    """Return a conversation, with the prompt for an answer, as llama.cpp writes it; None where it knows no template.

    BOS is not part of it: llama_tokenize adds that.
    """
    import llama_cpp

    said = [(message["role"].encode(), message["content"].encode()) for message in messages]
    array = (llama_cpp.llama_chat_message * len(said))(*(llama_cpp.llama_chat_message(*one) for one in said))
    count = llama_cpp.llama_chat_apply_template(template.encode(), array, len(said), True, None, 0)
    if count < 0:
        return None
    buffer = ctypes.create_string_buffer(count + 1)
    llama_cpp.llama_chat_apply_template(template.encode(), array, len(said), True, buffer, len(buffer))
    return buffer.raw[:count].decode("utf-8", "replace")


def known_template_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return a note where llama.cpp's C library does not write what the checkpoint's template does.

    Raises:
        CheckpointError: the template can't be rendered.
    """
    template, tokenizer = checkpoint.chat_template, tokenizer_of(checkpoint)
    if template is None:
        return ()
    differ = []
    for what, messages in CONVERSATIONS.items():
        expected = render_conversation(checkpoint, tokenizer, what, messages)
        if expected is None:
            continue
        found = apply_known_template(template, messages)
        if found is None:
            return (f"{FUNCTION} does not know the chat template: {_FIX}",)
        if found != without_bos(expected, tokenizer.special_tokens):
            differ.append(what)
    return (f"{FUNCTION} writes {', '.join(differ)} differently from the chat template: {_FIX}",) if differ else ()


def without_bos(text: str, special_tokens: Mapping[str, str]) -> str:
    """Return a rendered conversation without a BOS that the template writes."""
    return text.removeprefix(special_tokens.get("bos_token", ""))
