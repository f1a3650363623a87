"""The evaluation's own text next to those of the suites."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from builders.validation.by_text import own_name
from builders.validation.sampled_texts import ENGLISH, KINDS_OF_TEXT
from targets.evaluation import EvaluationSettings


def test_a_text_whose_file_is_called_as_another_one_is_read_has_a_name_of_its_own() -> None:
    """Else its divergence would be replaced by that of the built-in text, and be no part of the worst one."""
    settings = EvaluationSettings()
    for name in ("mine.txt", *KINDS_OF_TEXT):
        found = own_name(name, replace(settings, text=Path("texts") / name))
        assert found not in KINDS_OF_TEXT
        assert name in found
    assert own_name("the built-in text", settings) == ENGLISH
