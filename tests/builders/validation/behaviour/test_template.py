"""Which notes excuse a runtime's own tokenizer from the ids of conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest

from builders.runtime.text_engine import TextEngine
from builders.validation.behaviour.template import check_template
from tests.support.mutants import Nursery, subject_of


class Garbled:
    """A runtime whose template is right, and whose ids are not."""

    name = "a runtime"

    def __init__(self, texts: Sequence[str | None]) -> None:
        self._texts = iter(texts)

    def render(self, *_: object, **__: object) -> str | None:
        return next(self._texts)

    def encode(self, _text: str) -> list[int]:
        return [1]


@pytest.mark.parametrize(
    ("note", "is_excused"),
    [
        ("the runtime cuts text first; tokenize with tokenizer.json where that matters", True),
        ("the runtime adds spaces: tokenize chats with tokenizer.json", True),
        ("the tokenizer has 32 unused tokens", False),
        ("chats have the same ids; tokenize other texts with tokenizer.json", False),
    ],
)
def test_only_a_note_on_the_ids_of_chats_excuses_them(note: str, is_excused: bool, nursery: Nursery) -> None:
    with subject_of(nursery.bundle("llama", "onnx-fp16"), nursery.sound("llama")) as subject:
        manifest = subject.bundle.manifest
        recipe = manifest.recipe.model_copy(update={"notes": [note]})
        bundle = replace(subject.bundle, manifest=manifest.model_copy(update={"recipe": recipe}))
        other = replace(subject, bundle=bundle)
        asked = subject.truth.chats[:: subject.sample.every]
        found = check_template(other, [cast("TextEngine", Garbled([chat.text for chat in asked]))])
    assert {check.passed for check in found.checks if "refuse" not in check.name} >= {is_excused}
    assert bool(found.not_run) == is_excused
