"""Where onnxruntime-genai's own tokenizer and template engine differ from a bundle's files."""

from __future__ import annotations

from pathlib import Path

from builders.checkpoint import Checkpoint, read_json
from builders.templates import ChatTemplateError, render_chat
from builders.templates.conversations import reads_tools_of_messages
from builders.tokenizer import tokenizer_of

RENDERS_OTHERWISE = "onnxruntime-genai's own engine renders the chat template differently"  # how that note begins
REWRITES_TOOLS = "onnxruntime-genai's own engine rewrites the tools of a system message"  # how that note begins
_SPACE = "\u2581"  # SentencePiece's


def tokenizer_notes(folder: Path) -> tuple[str, ...]:
    """Return the note for a SentencePiece tokenizer; none for byte-level ones, which it reads correctly.

    onnxruntime-extensions (`SpmTokenize`) cuts a text at spaces and every 100 characters before it merges, and after a
    special token drops only ASCII white space. With Phi-3's vocabulary that changes 1 paragraph in 500 of English and
    code, mostly in runs of spaces.
    """
    content = read_json(folder / "tokenizer.json", required=False)
    decoder = content.get("decoder") or {}
    steps = decoder.get("decoders", [decoder])
    if not any(step.get("type") == "Replace" and step.get("pattern") == {"String": _SPACE} for step in steps):
        return ()
    note = (
        "onnxruntime-genai's own tokenizer cuts text before it merges: a few ids differ, mostly in runs of spaces "
        "(evidence: runtime_tokens_share); tokenize with tokenizer.json where that matters"
    )
    if (content.get("pre_tokenizer") or {}).get("prepend_scheme", "always") == "always":
        return (note,)
    spaces = (
        "onnxruntime-genai's own tokenizer puts a space before each text and after each special token, tokenizer.json "
        "does not: tokenize chats with tokenizer.json"
    )
    return note, spaces


def template_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return notes on a template that asks whether `tools` is none, or reads the tools of a message.

    onnxruntime-genai 0.18 leaves `tools` undefined where an app passes none, transformers passes None: with
    `{% if tools is not none %}` the two render different prompts. The tools of a system message, a text of JSON, it
    reads and writes again, without the backslashes before quotes and with True for true.
    """
    template = checkpoint.chat_template
    if template is None or "tools" not in template:
        return ()
    notes = _undefined_tools(checkpoint, template)
    if not reads_tools_of_messages(template):
        return notes
    rewritten = (
        f"{REWRITES_TOOLS}, so that lists, true and false, and quotes in them are no JSON any more: render "
        "chat_template.jinja with another engine for such tools"
    )
    return (*notes, rewritten)


def _undefined_tools(checkpoint: Checkpoint, template: str) -> tuple[str, ...]:
    messages, special = [{"role": "user", "content": "Hello"}], tokenizer_of(checkpoint).special_tokens
    try:
        expected = render_chat(template, messages, special)
    except ChatTemplateError:
        return ()  # the build says so itself
    try:
        if render_chat(template, messages, special, tools="undefined") == expected:
            return ()
    except ChatTemplateError:
        pass  # an undefined value is not allowed where the template uses it
    note = (
        f"{RENDERS_OTHERWISE}, since it leaves `tools` undefined: render chat_template.jinja with another engine that "
        "passes null"
    )
    return (note,)
