"""The evaluation's own text next to those of the suites."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from builders.validation.by_text import own_name
from builders.validation.sampled_texts import ENGLISH, KINDS_OF_TEXT, plain_texts
from builders.validation.text import BUILT_IN_NAME
from targets.evaluation import EvaluationSettings


def test_a_text_whose_file_is_called_as_another_one_is_read_has_a_name_of_its_own() -> None:
    """Else its divergence would be replaced by that of the built-in text, and be no part of the worst one."""
    settings = EvaluationSettings()
    for name in ("mine.txt", *KINDS_OF_TEXT):
        found = own_name(name, replace(settings, text=Path("texts") / name))
        assert found not in KINDS_OF_TEXT
        assert name in found
    assert own_name("the built-in text", settings) == ENGLISH


def test_a_text_whose_file_is_called_as_a_built_in_one_is_read_all_the_same(tmp_path: Path) -> None:
    """The key of its evidence is made from these texts, and a calibration's text is compared with them."""
    for name in ("mine.txt", BUILT_IN_NAME, f"{BUILT_IN_NAME} german"):
        (tmp_path / name).write_text("My own text.", "utf-8")
        found = plain_texts(EvaluationSettings(text=tmp_path / name, suite="quick"))
        assert [*found.values()].count("My own text.") == 1
        assert len(found) == 6
