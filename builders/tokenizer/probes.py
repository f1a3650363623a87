"""What a checkpoint's chat template is found to do, by rendering conversations: that it works, and how a turn ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from builders.checkpoint import Checkpoint
from builders.tokenizer.chat import ChatTemplateError, render_chat
from builders.tokenizer.loading import Tokenizer
from targets.errors import CheckpointError, UnsupportedModelError

_ANSWER = "Sixteen"
_QUESTION = {"role": "user", "content": "What is 4 times 4?"}
_ANSWERED = ({"role": "assistant", "content": _ANSWER},)


def probe_conversations(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Return what the chat template makes of a question, and of one more after an answer; nothing without a template.

    A template that allows only one question is left at that.

    Raises:
        CheckpointError: the template can't be rendered even for one question.
    """
    template = checkpoint.chat_template
    if template is None:
        return ()
    try:
        first = render_chat(template, [_QUESTION], tokenizer.special_tokens)
    except ChatTemplateError as error:
        raise CheckpointError(
            f"{checkpoint.tokenizer_folder}: the chat template can't be rendered for one question: {error}",
            fix="correct the chat template, or download it again from the model's repository",
        ) from error
    more = _rendered(template, [_QUESTION, *_ANSWERED, _QUESTION], tokenizer.special_tokens)
    return (first,) if more is None else (first, more)


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
    template = checkpoint.chat_template
    if template is None:
        return None
    text = _rendered(template, [_QUESTION, *_ANSWERED], tokenizer.special_tokens, add_generation_prompt=False)
    _, found, rest = (text or "").rpartition(_ANSWER)
    ids = tokenizer.encode(rest.lstrip()) if found else []
    return ids[0] if ids and ids[0] in tokenizer.added_tokens() else None


def _rendered(
    template: str,
    messages: Sequence[Mapping[str, str]],
    special_tokens: Mapping[str, str],
    *,
    add_generation_prompt: bool = True,
) -> str | None:
    try:
        return render_chat(template, messages, special_tokens, add_generation_prompt=add_generation_prompt)
    except ChatTemplateError:
        return None
