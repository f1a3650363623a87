"""What a checkpoint's chat template is found to do, by rendering conversations: that it works, and how a turn ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from builders.checkpoint import Checkpoint
from builders.checkpoint.tokenizer_files import chat_template_file
from builders.templates import ChatTemplateError, render_chat
from builders.tokenizer.loading import Tokenizer
from targets.errors import CheckpointError, UnsupportedModelError

_MOMENT = "2024-07-26T12:00:00"  # Llama's templates write the day: what is read then depends on no day
_ANSWER = "Sixteen"
_QUESTION = {"role": "user", "content": "What is 4 times 4?"}
_SYSTEM = {"role": "system", "content": "Be brief."}
_ANSWERED = ({"role": "assistant", "content": _ANSWER},)
_QUESTIONS = (_QUESTION, *_ANSWERED, _QUESTION)


def probe_conversations(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return what the chat template makes of a question, and of one more after an answer; nothing without a template.

    A template that allows only one question, or no system prompt, is left at that: `raise_exception` says so.

    Raises:
        CheckpointError: the template can't be rendered for one question, or fails for a conversation that it does not
            refuse.
    """
    if checkpoint.chat_template is None:
        return ()
    render_conversation(checkpoint, tokenizer, "a system prompt", (_SYSTEM, _QUESTION))
    first = render_conversation(checkpoint, tokenizer, "one question", (_QUESTION,), must=True)
    more = render_conversation(checkpoint, tokenizer, "a question after an answer", _QUESTIONS)
    return tuple(text for text in (first, more) if text is not None)


def unknown_flags_note(
    checkpoint: Checkpoint, tokenizer: Tokenizer, flags: Sequence[str], runtime: str
) -> tuple[str, ...]:
    """Return a note where added tokens have flags (`lstrip` …) that a runtime's own tokenizer does not know.

    Raises:
        CheckpointError: the chat template can't be rendered.
        UnsupportedModelError: the flags decide the ids of the template's own text, so that every chat would be wrong.
    """
    chats = probe_conversations(checkpoint, tokenizer)
    flagged = tokenizer.tokens_with(flags)
    if not flagged:
        return ()
    more = f" and {len(flagged) - 3} more" if len(flagged) > 3 else ""
    named = f"{', '.join(sorted(flagged)[:3])}{more} ({', '.join(flags)})"
    plain = tokenizer.without_flags(flags)
    if any(plain.encode(text) != tokenizer.encode(text) for text in chats):
        raise UnsupportedModelError(
            f"{checkpoint.tokenizer_folder}: {runtime} does not know the rules by which the tokenizer finds {named}, "
            "and the chat template relies on them: every chat would get other ids",
            fix="build another format, or save the tokenizer without these flags if the model was trained so",
        )
    note = f"{runtime} finds {named} by rules of its own (whitespace around them, word borders)"
    return (f"{note}: tokenize with tokenizer.json where a text may contain them",)


def turn_end(checkpoint: Checkpoint, tokenizer: Tokenizer) -> int | None:
    """Return the id of the added token that the chat template writes after an answer; None if it is none."""
    if checkpoint.chat_template is None:
        return None
    conversation = (_QUESTION, *_ANSWERED)
    text = render_conversation(checkpoint, tokenizer, "an answered question", conversation, add_generation_prompt=False)
    _, found, rest = (text or "").rpartition(_ANSWER)
    ids = tokenizer.encode(rest.lstrip()) if found else []
    return ids[0] if ids and ids[0] in tokenizer.added_tokens() else None


def render_conversation(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    what: str,
    messages: Sequence[Mapping[str, str]],
    *,
    must: bool = False,
    add_generation_prompt: bool = True,
) -> str | None:
    """Return a conversation in the checkpoint's template, as of one day; None where the template refuses it.

    `what`: the kind of conversation, for messages.

    Raises:
        CheckpointError: the template fails, exceeds a limit, or refuses what it `must` render.
    """
    template, special_tokens = checkpoint.chat_template, tokenizer.special_tokens
    assert template is not None
    try:
        return render_chat(
            template, messages, special_tokens, add_generation_prompt=add_generation_prompt, moment=_MOMENT
        )
    except ChatTemplateError as error:
        if error.refused and not must:
            return None
        raise CheckpointError(
            f"{chat_template_file(checkpoint.tokenizer_folder)}: the chat template can't be rendered for {what}: "
            f"{error}",
            fix="correct the chat template, or download it again from the model's repository",
        ) from error
