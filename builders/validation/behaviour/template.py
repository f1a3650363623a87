"""Conversations in every engine: text and ids must be transformers'."""

from __future__ import annotations

import re
from collections.abc import Sequence

from builders.onnx.tokenizer_notes import RENDERS_OTHERWISE, REWRITES_TOOLS
from builders.oracle.texts import HARD_TOOLS, TOOLS, chats
from builders.runtime.text_engine import TextEngine
from builders.validation.behaviour.findings import Findings
from builders.validation.behaviour.subject import Subject

# How notes say that a runtime's own tokenizer differs on chats, too.
_NOT_PROMISED = re.compile(r"\btokenize (?:chats )?with tokenizer\.json")


def check_template(subject: Subject, engines: Sequence[TextEngine]) -> Findings:
    """Render the grid of conversations, and compare."""
    findings = Findings("template")
    template = subject.truth.template
    grid = {} if template is None else {chat.name: chat for chat in chats(template)}
    all_notes = subject.bundle.manifest.recipe.notes
    notes = [note for note in all_notes if _NOT_PROMISED.search(note)]
    for engine in engines:
        is_own = engine.name == "the bundle's files"
        otherwise, rewrites = (
            next((note for note in all_notes if note.startswith(begin)), None)
            for begin in (RENDERS_OTHERWISE, REWRITES_TOOLS)
        )
        if otherwise is not None and not is_own:
            findings.skip(f"{engine.name}: conversations", otherwise)
            continue
        is_promised = is_own or not notes
        if template is None:
            found = engine.render([{"role": "user", "content": "Hello"}], None, add_generation_prompt=True)
            findings.equal(f"{engine.name}: no template", None, found)
        elif not is_promised:
            findings.skip(f"{engine.name}: ids of conversations", notes[0])
        for truth in subject.truth.chats[:: subject.sample.every]:
            chat = grid[truth.name]
            name = f"{engine.name}: {chat.name}"
            if rewrites is not None and not is_own and chat.message_tools == HARD_TOOLS:
                findings.skip(name, rewrites)
                continue
            tools = TOOLS if chat.has_tools else None
            text = engine.render(chat.to_messages(), tools, add_generation_prompt=chat.add_generation_prompt)
            if text != truth.text or text is None or not is_promised:
                findings.equal(name, truth.text, text)
            else:
                findings.equal(name, truth.ids, engine.encode(text))
    return findings
