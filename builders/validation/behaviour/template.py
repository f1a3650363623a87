"""Conversations in every engine: text and ids must be transformers'."""

from __future__ import annotations

import re
from collections.abc import Sequence

from builders.gguf.known_templates import FUNCTION, without_bos
from builders.onnx.tokenizer_notes import RENDERS_OTHERWISE, REWRITES_TOOLS
from builders.runtime.text_engine import TemplateEngine, TextEngine
from builders.runtime.text_engines import template_engines
from builders.templates.conversations import HARD_TOOLS, TOOLS, chats
from builders.validation.behaviour.findings import Findings
from builders.validation.behaviour.subject import Subject

# How notes say that a runtime's own tokenizer differs on chats, too.
_NOT_PROMISED = re.compile(r"\btokenize (?:chats )?with tokenizer\.json")
# How notes begin that promise nothing of what an engine renders, or of the tools in it.
_OTHERWISE = {"onnxruntime-genai": RENDERS_OTHERWISE, FUNCTION: FUNCTION}
_OTHER_TOOLS = {"onnxruntime-genai": REWRITES_TOOLS}


def check_template(subject: Subject, engines: Sequence[TextEngine]) -> Findings:
    """Render the grid of conversations, and compare."""
    findings = Findings("template")
    for engine in template_engines(engines):
        if (note := _note(subject, _OTHERWISE.get(engine.name))) is not None:
            findings.skip(f"{engine.name}: conversations", note)
        else:
            _check_engine(subject, engine, findings)
    return findings


def _check_engine(subject: Subject, engine: TemplateEngine, findings: Findings) -> None:
    template, is_own = subject.truth.template, engine.name == "the bundle's files"
    grid = {} if template is None else {chat.name: chat for chat in chats(template)}
    notes = [note for note in subject.bundle.manifest.recipe.notes if _NOT_PROMISED.search(note)]
    is_promised = is_own or not notes
    if template is None:
        found = engine.render([{"role": "user", "content": "Hello"}], None, add_generation_prompt=True)
        findings.equal(f"{engine.name}: no template", None, found)
    elif not is_promised:
        findings.skip(f"{engine.name}: ids of conversations", notes[0])
    for truth in subject.truth.chats[:: subject.sample.every]:
        name, chat, expected = f"{engine.name}: {truth.name}", grid[truth.name], truth.text
        if engine.name == FUNCTION:
            if not chat.is_plain_prompt:
                continue
            expected = None if expected is None else without_bos(expected, subject.truth.named)
        elif chat.message_tools == HARD_TOOLS and (note := _note(subject, _OTHER_TOOLS.get(engine.name))) is not None:
            findings.skip(name, note)
            continue
        tools = TOOLS if chat.has_tools else None
        text = engine.render(chat.to_messages(), tools, add_generation_prompt=chat.add_generation_prompt)
        if text != expected or text is None or text != truth.text or not is_promised:
            findings.equal(name, expected, text)
        else:
            findings.equal(name, truth.ids, engine.encode(text))


def _note(subject: Subject, begin: str | None) -> str | None:
    """Return the manifest's note that begins so."""
    notes = subject.bundle.manifest.recipe.notes
    return None if begin is None else next((note for note in notes if note.startswith(begin)), None)
