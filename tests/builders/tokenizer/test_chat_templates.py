"""Chat templates: chosen and rendered as transformers does, in the checkpoint, in bundles and at generation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.runtime.generation import render_prompt
from builders.templates import render_chat
from builders.tokenizer import bundled_tokenizer, load_tokenizer
from targets.errors import CheckpointError
from targets.recipes import recipe_named
from tests.support.checkpoints import CHAT_TEMPLATE, edit_json, write_json, write_tiny

CONFIG = "tokenizer_config.json"
EACH = "{% for m in messages %}"
TEMPLATES = {
    "phi-3": CHAT_TEMPLATE,
    "generation": EACH + "{% generation %}{{ m.content }}<|end|>{% endgeneration %}{% endfor %}",
    "loop controls": EACH
    + "{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% break %}{% endfor %}",
    "tools": "{% if tools is not none or documents %}{{ tools[0] }}{% endif %}{{ messages[0].content }}",
    "tools undefined": "{{ tools is defined }} {{ tools }} {{ messages[0].content }}",
    "tojson": EACH + "{{ m | tojson }}{{ m.content | tojson(indent=2) }}{% endfor %}",
    "the date": "{{ strftime_now('%Y') | length }}{{ messages[0].content }}",
    "special tokens": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token }}{{ unk_token }}",
    "namespace": "{% set n = namespace(k=1) %}{% set n.k = n.k + 1 %}{{ n.k }}{{ dict(a=1) }}{{ messages[-1] }}",
    "dict.fromkeys": "{{ dict.fromkeys(['a', 'b'], 1) }}{{ dict() }}{{ messages[0].content }}",
    "a macro": "{% macro f(x) %}[{{ x }}]{% endmacro %}" + EACH + "{{ f(m.content) }}{{ loop.index }}{% endfor %}",
    "a nested generation": EACH
    + "{% generation %}{% if m.role != 'user' %}{{ m.content | trim }}{% endif %}{% endgeneration %}{% endfor %}",
    "filters": EACH + "{{ m.content | upper | replace('A', 'b') }}{{ '%s!' | format(m.role) }}{% endfor %}",
    "whitespace": "{% for m in messages %}\n    {% if true %}\n  {{ m.content }}\n    {% endif %}\n{% endfor %}\n",
}
PROMPTS = ("Why is the sky blue?", "Grüße <b> & 'x' \"y\"", "", "{{ 7 * 7 }}\n<|end|>", "  two\n\nlines ")
MESSAGES = (
    [{"role": "user", "content": PROMPTS[1]}],
    [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": " a\n"}],
)


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("templates") / "checkpoint")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_rendered_as_transformers_renders_it(tmp_path: Path, name: str) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    edit_json(folder / CONFIG, chat_template=TEMPLATES[name])
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    special = load_tokenizer(folder).special_tokens
    for messages in MESSAGES:
        for prompt in (True, False):
            expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            assert render_chat(TEMPLATES[name], messages, special, add_generation_prompt=prompt) == expected
    bundle = build(open_checkpoint(folder), recipe_named("gguf-q8_0"), tmp_path / "bundle")
    for text in PROMPTS:
        messages = [{"role": "user", "content": text}]
        expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert render_prompt(bundle, text) == expected


def test_tojson_keeps_letters_and_brackets() -> None:
    assert render_chat("{{ messages[0].content | tojson }}", MESSAGES[0], {}) == '"Grüße <b> & \'x\' \\"y\\""'


FAILING = {
    "{{ raise_exception('no') }}": "TemplateError: no (line 1 of the template)",
    "a\n{% for m in messages %}\n": "TemplateSyntaxError: .*line ",
    "a\nb{{ nothing.at.all }}": "UndefinedError: 'nothing' is undefined (line 2 of the template)",
    "\n\n{{ 1 / 0 }}": "ZeroDivisionError: division by zero (line 3 of the template)",
    "{{ messages | length + 'x' }}": "TypeError: .*(line 1 of the template)",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": ".*Error: .*(line 1 of the template)",
    "{% include 'other' %}": "TypeError: .*(line 1 of the template)",
    "{% macro m() %}{{ m() }}{% endmacro %}\n{{ m() }}": "RecursionError: .*(line 1 of the template)",
    "{{ '%999999999d' | format(1) }}": "it needs too much memory",
    "{{ 'x' * 5000000 }}": "it writes 5000000 characters for one conversation",
    r"{{ '\ud800' }}": "what it writes is no text: half of a surrogate pair",
}


def failing_as(template: str) -> str:
    return re.escape(FAILING[template]).replace(r"\.\*", ".*")


@pytest.mark.parametrize("template", FAILING)
@pytest.mark.parametrize("kind", ["gguf-q8_0", "onnx-int4", "coreml-int4"])
def test_a_template_that_can_not_be_rendered_is_found_before_a_build(
    bundle_folder: Path, tmp_path: Path, template: str, kind: str
) -> None:
    file = bundle_folder / "chat_template.jinja"
    file.write_text(template, "utf-8")
    with pytest.raises(CheckpointError, match="the chat template can't be rendered for") as refused:
        build(open_checkpoint(bundle_folder), recipe_named(kind), tmp_path / "bundle")
    assert refused.value.problem.startswith(f"{file}: ")
    assert re.search(failing_as(template), refused.value.problem)
    assert list(tmp_path.iterdir()) == []


CONVERSATIONS = {
    "a system prompt": "messages[0].role == 'system'",
    "one question": "messages | length == 1",
    "a question after an answer": "messages | length == 3",
    "an answered question": "not add_generation_prompt",
}


@pytest.mark.parametrize("what", CONVERSATIONS)
def test_a_template_must_render_or_refuse_what_apps_ask(bundle_folder: Path, tmp_path: Path, what: str) -> None:
    """By `raise_exception` a template may say that it knows one question alone; whatever else fails is its defect."""
    for fault, allowed in (("1 / 0", False), ("raise_exception('alone, please')", what != "one question")):
        template = f"{{{{ ({fault}) if {CONVERSATIONS[what]} else messages[-1].content }}}}"
        (bundle_folder / "chat_template.jinja").write_text(template, "utf-8")
        if allowed:
            build(open_checkpoint(bundle_folder), recipe_named("gguf-q8_0"), tmp_path / "bundle")
        else:
            with pytest.raises(CheckpointError, match=f"can't be rendered for {what}: "):
                build(open_checkpoint(bundle_folder), recipe_named("gguf-q8_0"), tmp_path / "bundle")


def _named(**templates: str) -> list[dict[str, str]]:
    return [{"name": name, "template": text} for name, text in templates.items()]


def _extra(folder: Path, **templates: str) -> None:
    (folder / "additional_chat_templates").mkdir()
    for name, text in templates.items():
        (folder / "additional_chat_templates" / f"{name}.jinja").write_text(text, "utf-8")


PLACES: dict[str, Callable[[Path], object]] = {
    "a text": lambda f: edit_json(f / CONFIG, chat_template="text"),
    "none": lambda f: edit_json(f / CONFIG, chat_template=...),
    "null": lambda f: edit_json(f / CONFIG, chat_template=None),
    "a list": lambda f: edit_json(f / CONFIG, chat_template=_named(tool_use="T", default="D", rag="R")),
    "a file": lambda f: (f / "chat_template.jinja").write_text("file\r\nend", "utf-8"),
    "a file and a list": lambda f: (
        (f / "chat_template.jinja").write_text("file", "utf-8"),
        edit_json(f / CONFIG, chat_template=_named(default="D")),
    ),
    "more files": lambda f: ((f / "chat_template.jinja").write_text("file", "utf-8"), _extra(f, tool_use="T")),
    "only more files": lambda f: _extra(f, default="D", tool_use="T"),
    "a processor's too": lambda f: write_json(f / "chat_template.json", {"chat_template": "P"}),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_template_is_the_one_that_transformers_takes(tmp_path: Path, place: str) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    PLACES[place](folder)
    theirs: Any = transformers.AutoTokenizer.from_pretrained(folder)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.chat_template == (None if theirs.chat_template is None else theirs.get_chat_template())
    bundled = bundled_tokenizer(checkpoint, "onnx")
    config = json.loads(bundled.files[CONFIG])
    assert config.get("chat_template") == checkpoint.chat_template  # a text: onnxruntime-genai reads no list
    assert (config.get("chat_template") is None) == ("chat_template.jinja" not in bundled.files)
    if "list" in place and "file" not in place:
        assert any("rag, tool_use are not in the bundle" in note for note in bundled.notes)
    assert ("processor" in place) == any("chat_template.json has another" in note for note in bundled.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: edit_json(f / CONFIG, chat_template=_named(rag="R")), r"none of its chat templates \(rag\)"),
        (lambda f: _extra(f, tool_use="T"), r"none of its chat templates \(tool_use\)"),
        (lambda f: edit_json(f / CONFIG, chat_template=7), "neither a text nor a list"),
        (lambda f: edit_json(f / CONFIG, chat_template=[{"name": "default"}]), "neither a text nor a list"),
        (
            lambda f: (
                edit_json(f / CONFIG, chat_template=...),
                write_json(f / "chat_template.json", {"chat_template": "P"}),
            ),
            r"chat_template\.json has the only chat template",
        ),
    ],
)
def test_a_template_that_nobody_could_choose_is_refused(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        bundled_tokenizer(open_checkpoint(folder), "gguf")


def test_the_digest_covers_every_template(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    before = open_checkpoint(folder).digest
    _extra(folder, tool_use="T")
    after = open_checkpoint(folder).digest
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("U", "utf-8")
    assert len({before, after, open_checkpoint(folder).digest}) == 3
