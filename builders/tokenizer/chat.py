"""A chat template rendered by transformers' own function, so that it means here what it means there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class ChatTemplateError(Exception):
    """A chat template can't be rendered. Its text says why; whoever catches it knows the file and the fix."""


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, str]],
    special_tokens: Mapping[str, str],
    *,
    add_generation_prompt: bool = True,
) -> str:
    """Return a conversation as `apply_chat_template` writes it: sandboxed, `tools` and `documents` None.

    `special_tokens`: by role, as the tokenizer has them. The template is a program from outside.

    Raises:
        ChatTemplateError: it can't be parsed or run, or refuses the conversation.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    # Whatever a template raises is its own failure: jinja passes on ZeroDivisionError as well as its own classes.
    try:
        rendered, _ = render_jinja_template(
            conversations=[[dict(message) for message in messages]],
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            **special_tokens,
        )
    except Exception as error:
        raise ChatTemplateError(f"{type(error).__name__}: {error}") from error
    return str(rendered[0])
