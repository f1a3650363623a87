"""Chat templates by llama.cpp's C library, which has no Jinja: it knows some templates by what they contain.

Apps on phones call `llama_chat_apply_template` for them. It takes a template for one that it knows wherever a few words
are in it, and then writes that one's line breaks, whatever the template itself says: Phi-4-mini's, which has none,
it writes as Phi-3's. Source: llama.cpp's src/llama-chat.cpp.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

from builders.checkpoint import Checkpoint
from builders.checkpoint.tokenizer_files import chat_template_file
from builders.templates import ChatTemplateError, render_chat
from builders.templates.conversations import Chat, chats
from builders.tokenizer import tokenizer_of
from targets.errors import CheckpointError

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
    """Return a note where llama.cpp's C library does not write the prompts that the checkpoint's template does.

    It writes what the template refuses, or fails for, too: that is another prompt.

    Raises:
        CheckpointError: the template exceeds a limit on time or memory.
    """
    template, special = checkpoint.chat_template, tokenizer_of(checkpoint).special_tokens
    if template is None:
        return ()
    asked = [chat for chat in chats(template) if chat.is_plain_prompt]
    differ = []
    for chat in asked:
        expected = _rendered(checkpoint, template, special, chat)
        found = apply_known_template(template, chat.to_messages())
        if found is None:
            return (f"{FUNCTION} does not know the chat template: {_FIX}",)
        if expected is None or found != without_bos(expected, special):
            differ.append(chat.name)
    if not differ:
        return ()
    named = f"{len(differ)} of {len(asked)} prompts differently from the chat template, such as that of {differ[0]}"
    return (f"{FUNCTION} writes {named}: {_FIX}",)


def _rendered(checkpoint: Checkpoint, template: str, special_tokens: Mapping[str, str], chat: Chat) -> str | None:
    try:
        return render_chat(template, chat.to_messages(), special_tokens)
    except ChatTemplateError as error:
        if error.exhausted:
            raise CheckpointError(
                f"{chat_template_file(checkpoint.tokenizer_folder)}: the chat template can't be rendered for"
                f" {chat.name}: {error}",
                fix="correct the chat template, or download it again from the model's repository",
            ) from error
        return None


def without_bos(text: str, special_tokens: Mapping[str, str]) -> str:
    """Return a rendered conversation without a BOS that the template writes."""
    return text.removeprefix(special_tokens.get("bos_token", ""))
