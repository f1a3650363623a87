"""What llama.cpp's C library makes of chat templates, which it knows by a few words in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.gguf.known_templates import FUNCTION, apply_known_template
from builders.oracle.transformers_text import text_truth
from builders.reference import FloatReference
from builders.runtime.text_engines import open_text_engines, template_engines
from builders.templates import render_chat
from builders.validation.behaviour.template import check_template
from devtools.phi4_tokenizer import RELEASED
from registry.bundle.folder import Bundle
from targets.recipes import recipe_named
from tests.support.checkpoints import CHAT_TEMPLATE, Tiny, edit_json, write_tiny
from tests.support.mutants import Sound, subject_of

PHI_3_MEDIUM = (
    "{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' + '\\n' + message['content'] + "
    "'<|end|>' + '\\n' + '<|assistant|>' + '\\n'}}{% elif (message['role'] == 'assistant') %}{{message['content'] + "
    "'<|end|>' + '\\n'}}{% endif %}{% endfor %}"
)
OWN_SYSTEM = (  # as SmolLM2's: a system message of its own where none is there
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe "
    "helpful<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'"
    " + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
UNKNOWN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}{% if add_generation_prompt %}model:{% endif %}"
)
TRIMMED = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|end|>\n{% endfor %}{{ '<|assistant|>\n' }}"


def _bundle(folder: Path, template: str) -> Bundle:
    checkpoint = write_tiny(folder / "checkpoint", Tiny())
    edit_json(checkpoint / "tokenizer_config.json", chat_template=template)
    return build(open_checkpoint(checkpoint), recipe_named("gguf-f16"), folder / "bundle", context_length=256)


def _notes(bundle: Bundle) -> list[str]:
    return [note for note in bundle.manifest.recipe.notes if note.startswith(FUNCTION)]


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (CHAT_TEMPLATE, None),
        ("{{ bos_token }}" + CHAT_TEMPLATE, None),  # an app lets llama_tokenize add it
        (RELEASED["phi-4"].template, None),
        (
            RELEASED["phi-4-mini"].template,
            "writes 30 of 30 prompts differently from the chat template, such as that of a user's turn, plain",
        ),
        (PHI_3_MEDIUM, "such as that of system message, plain"),
        (OWN_SYSTEM, "such as that of a user's turn, plain"),
        (TRIMMED, "such as that of a user's turn, white space"),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHAT_TEMPLATE,
            "system message",
        ),
        (UNKNOWN, "does not know the chat template"),
    ],
    ids=["phi-3", "bos", "phi-4", "phi-4-mini", "phi-3-medium", "own system", "trimmed", "refuses", "unknown"],
)
def test_where_it_writes_another_prompt_the_bundle_says_so(tmp_path: Path, template: str, found: str | None) -> None:
    notes = _notes(_bundle(tmp_path, template))
    assert len(notes) == (found is not None)
    assert all(found in note and "with an engine for Jinja" in note for note in notes if found)


def test_phi_4_mini_gets_the_line_breaks_of_phi_3() -> None:
    """What an app that calls it would ask the model: each turn off by two line breaks."""
    template, messages = RELEASED["phi-4-mini"].template, [{"role": "user", "content": "Hello"}]
    assert apply_known_template(template, messages) == "<|user|>\nHello<|end|>\n<|assistant|>\n"
    assert render_chat(template, messages, {}) == "<|user|>Hello<|end|><|assistant|>"


@pytest.mark.parametrize(("template", "is_same"), [(CHAT_TEMPLATE, True), (RELEASED["phi-4-mini"].template, False)])
def test_its_prompts_are_checked_where_no_note_says_that_they_differ(
    tmp_path: Path, template: str, is_same: bool
) -> None:
    bundle = _bundle(tmp_path, template)
    own, not_run = _checked(bundle)
    assert (set(own), not_run) == (({True}, 0) if is_same else (set(), 1))
    recipe = bundle.manifest.recipe.model_copy(update={"notes": []})
    own, not_run = _checked(replace(bundle, manifest=bundle.manifest.model_copy(update={"recipe": recipe})))
    assert (set(own), not_run) == ({is_same}, 0)
    assert len(own) > 20


def _checked(bundle: Bundle) -> tuple[list[bool], int]:
    """Return which of the function's checks pass, and how many are not run."""
    checkpoint = open_checkpoint(bundle.path.parent / "checkpoint")
    sound = Sound(checkpoint, text_truth(checkpoint.path), FloatReference(checkpoint))
    with subject_of(bundle, sound) as subject, open_text_engines(bundle) as engines:
        found = check_template(subject, engines)
    passed = [check.passed for check in found.checks if check.name.startswith(FUNCTION)]
    return passed, sum(one.name.startswith(FUNCTION) for one in found.not_run)


def test_other_formats_are_not_asked(tmp_path: Path) -> None:
    checkpoint = write_tiny(tmp_path / "checkpoint", Tiny())
    bundle = build(open_checkpoint(checkpoint), recipe_named("onnx-fp16"), tmp_path / "b", context_length=256)
    assert not _notes(bundle)
    with open_text_engines(bundle) as engines:
        assert [engine.name for engine in template_engines(engines)] == ["the bundle's files", "onnxruntime-genai"]
