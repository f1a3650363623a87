"""What is different from production's bundle, in sentences that say what follows from it."""

from __future__ import annotations

import difflib
import math
from dataclasses import replace
from typing import Any

import pytest

from builders.report.answers import answer_rows
from builders.report.at_a_glance import at_a_glance
from builders.report.changes import app_changes, origin_changes
from builders.report.content import CellContent, Subject
from builders.report.findings import findings
from builders.report.recipes import recipe_of
from builders.report.template_difference import blocks, in_words
from targets.evidence import Figure
from tests.support.report_samples import answers, details

TEMPLATE = "{% for m in messages %}{{ m.content + '\n' }}{% endfor %}\n{{ '<|assistant|>\n' }}"


_AT_THE_END = "after “…\\n' }}{% endfor %}\\n{{ '<|assistant|>\\n' }}”"


@pytest.fixture
def same(cell: CellContent) -> CellContent:
    """A cell that is exactly what production has."""
    assert cell.baseline is not None
    return CellContent(cell.candidate, replace(cell.candidate, name=cell.baseline.name))


@pytest.mark.parametrize(
    ("before", "after", "meaning"),
    [
        ([0, 2], [0], "answers that ended with 2 run on"),
        ([0], [0, 1, 2], "answers end with 1 (also BOS) or 2, too"),
        ([0, 2], [0, 7], "answers that ended with 2 run on; answers end with 7, too"),
        ([0, 2], [0, 2], ""),
    ],
)
def test_what_a_stop_id_means_is_said(same: CellContent, before: list[int], after: list[int], meaning: str) -> None:
    stops = {"stop_token_ids": before}, {"stop_token_ids": after}
    found = _of_both(same, *({"generation": _generation(same, one)} for one in stops))
    change = next(one for one in app_changes(found) if one.what == "stop ids")
    assert (change.meaning, change.must_follow) == (meaning, bool(meaning))
    said = [one for one in findings(found) if "top ids" in one.text]
    assert [meaning in one.text for one in said] == ([True] if meaning else [])
    assert [one.severity for one in said] == (["defect" if "run on" in meaning else "look"] if meaning else [])


def test_another_checkpoint_is_the_first_thing_to_look_at_for_what_no_gate_shows(same: CellContent) -> None:
    """Bundle and reference agree on whatever the checkpoint has wrong."""
    found = _of_both(same, {}, {"checkpoint": "sha256:" + "9" * 64, "files": _other(same, "model.gguf")})
    (text,) = (one.text for one in findings(found) if one.severity == "look" and "checkpoint" in one.text)
    assert text.startswith("The checkpoint is another one than that of phi:1.0.0@iphone-15.")
    assert "they show no fault of the checkpoint itself" in text
    assert [one.what for one in origin_changes(found) if one.changed] == ["checkpoint", "largest file"]
    files = _other(same, "chat_template.jinja")
    template = _of_both(same, {}, {"checkpoint": "sha256:" + "9" * 64, "files": files})
    (one,) = (one for one in findings(template) if "checkpoint" in one.text)
    assert (one.severity, "every file with weights is the same" in one.text) == ("note", True)
    assert [one for one in findings(same) if "checkpoint" in one.text] == []


@pytest.mark.parametrize(("before", "after", "said"), [(14.0, 15.0, True), (14.0, 14.1, False), (14.0, 12.0, False)])
def test_a_worse_checkpoint_shows_in_float32s_own_perplexity(
    same: CellContent, before: float, after: float, *, said: bool
) -> None:
    values = ({"reference_perplexity": one, "perplexity": 1.01 * one} for one in (before, after))
    files = _other(same, "model.gguf")
    found = _of_both(_with_figures(same, *values), {}, {"checkpoint": "sha256:" + "9" * 64, "files": files})
    evidence = found.candidate.evidence
    assert evidence is not None
    other = evidence.model_copy(update={"checkpoint": "sha256:" + "9" * 64})
    found = replace(found, candidate=replace(found.candidate, evidence=other))
    texts = [one.text for one in findings(found) if one.text.startswith("the checkpoint's perplexity")]
    assert bool(texts) == said
    unlike = replace(found, candidate=replace(found.candidate, evidence=other.model_copy(update={"text": "sha256:1"})))
    assert not [one for one in findings(unlike) if one.text.startswith("the checkpoint's perplexity")]


def test_a_note_that_production_does_not_have_is_to_be_read(same: CellContent) -> None:
    recipe = same.candidate.manifest.recipe
    note = "the chat template ends a turn with <|end|> (7), which is not among the stop ids: answers may run on"
    found = _of_both(same, {}, {"recipe": recipe.model_copy(update={"notes": [note]})})
    assert [one.severity for one in findings(found) if note in one.text] == ["defect"]
    alone = replace(found, baseline=None, difference=None)
    assert [one.severity for one in findings(alone) if note in one.text] == ["defect"]
    generation = _generation(same, {"stop_token_ids": [32000]})
    lost = _of_both(same, {}, {"recipe": recipe.model_copy(update={"notes": [note]}), "generation": generation})
    (one,) = (one for one in findings(lost) if one.severity == "defect")
    assert one.text.startswith("Stop ids: ")
    assert one.text.endswith(f"; {note}.")
    both = _of_both(same, *({"recipe": recipe.model_copy(update={"notes": [note]})} for _ in range(2)))
    assert not [one for one in findings(both) if note in one.text]
    other = _of_both(same, {}, {"recipe": recipe.model_copy(update={"notes": [note], "name": "gguf-q6_k"})})
    assert [one.severity for one in findings(other) if note in one.text] == ["defect"]  # whichever recipe
    note = "rounded by another table"
    for name, ranks in ((recipe.name, ["look"]), ("gguf-q6_k", [])):
        found = _of_both(same, {}, {"recipe": recipe.model_copy(update={"notes": [note], "name": name})})
        assert [one.severity for one in findings(found) if note in one.text] == ranks


def test_answers_that_ended_in_production_and_run_on_are_counted_though_float32_runs_on_too(same: CellContent) -> None:
    cut = {"bundle_ended": False, "reference_ended": False, "bundle": "Other", "reference": "Other", "tokens": 256}
    endless = [one.model_copy(update=cut) for one in answers()]
    found = replace(same, candidate=_with_details(same.candidate, answers=tuple(endless)))
    said = "4 answers end in phi:1.0.0@iphone-15, and neither here nor in float32: cut at 256 tokens."
    assert said in [one.text for one in findings(found)]
    one = _with_details(same.candidate, answers=(*answers()[:-1], endless[-1]))
    last = [found.text for found in findings(replace(same, candidate=one)) if found.anchor == "answers"]
    assert last == ["1 answer ends in phi:1.0.0@iphone-15, and neither here nor in float32: cut at 256 tokens."]


def test_one_text_that_is_far_worse_than_in_production_is_named(same: CellContent) -> None:
    """It may still be the best of all: then nothing within this release stands out."""
    texts = [one.model_copy(update={"kl_mean": 0.05}) if one.text == "code" else one for one in details().texts]
    found = replace(same, candidate=_with_details(same.candidate, texts=tuple(texts)))
    (said,) = (one.text for one in findings(found) if one.anchor == "texts")
    assert said.startswith("Text code: 0.05 nat, 2.9 times the 0.017 of phi:1.0.0@iphone-15;")
    assert "; the other texts have at most 1.0 times theirs." in said
    assert [one.severity for one in findings(found) if one.anchor == "texts"] == ["defect"]
    infinite = [one.model_copy(update={"kl_mean": math.inf}) if one.text == "chat" else one for one in texts]
    both = replace(same, candidate=_with_details(same.candidate, texts=tuple(infinite)))
    assert "Text chat: an infinite divergence." in [one.text for one in findings(both)]
    before = [one.model_copy(update={"kl_mean": math.inf}) if one.text == "chat" else one for one in details().texts]
    assert both.baseline is not None
    for either in (both, replace(both, baseline=_with_details(both.baseline, texts=tuple(before)))):
        assert said in [one.text for one in findings(either)]  # what is infinite hides no other text
    other = _of_both(found, {}, {"recipe": found.candidate.manifest.recipe.model_copy(update={"name": "gguf-q6_k"})})
    assert [one.severity for one in findings(other) if one.anchor == "texts"] == ["look"]
    all_worse = [one.model_copy(update={"kl_mean": 3 * one.kl_mean}) for one in details().texts]
    found = replace(same, candidate=_with_details(same.candidate, texts=tuple(all_worse)))
    assert [one.text for one in findings(found) if one.anchor == "texts"] == []


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (TEMPLATE.replace("|>\n", "|>"), "“\\n” is gone after “<|assistant|>”"),
        (TEMPLATE.replace("|>", "|> "), "“ ” is new after “<|assistant|>”"),
        (TEMPLATE + "\n", f"“\\n” is new {_AT_THE_END}"),
        (TEMPLATE.replace("assistant", "model"), "“assistant” becomes “model” after “<|”"),
        (TEMPLATE + "x y" * 200, f"“{('x y' * 200)[:120]}…” is new {_AT_THE_END}"),
    ],
)
def test_a_small_difference_of_a_template_is_quoted(after: str, words: str) -> None:
    difference = _difference(TEMPLATE, after)
    assert in_words(difference, TEMPLATE.split("\n")) == words
    for kind, text in (("gone", TEMPLATE), ("new", after)):
        shown = "".join(piece.text for one in blocks(difference) if one.kind in (kind, "same") for piece in one.pieces)
        assert shown.replace("⏎", "").replace("·", " ").removesuffix("\n") in text + "\n"


_TURNS = """{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system
Be kind<|im_end|>
' }}{% endif %}
{% for message in messages %}
{% if message['role'] == 'user' %}{{ '<|user|>
' + message['content'] }}{% else %}{{ message['content'] }}{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% endif %}"""
_ANSWER, _USER = "{% if add_generation_prompt %}", "{% if message['role'] == 'user' %}"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "<|assistant|>\n",
            "<|assistant|>",
            f"“\\n” is gone after “<|assistant|>”, in “{_ANSWER}”: where the answer begins",
        ),
        ("<|user|>\n", "<|user|>", f"“\\n” is gone after “<|user|>”, in “{_USER}”: in each message of the role user"),
        (
            "kind",
            "rude",
            "“kind” becomes “rude” after “<|im_start|>system\\nBe ”, in “{% if messages[0]['role'] != 'system' %}”",
        ),
        (
            "%}{{ message['content']",
            "%}{{ ' ' + message['content']",
            f"“' ' + ” is new in the else of “{_USER}”: in each message",
        ),
    ],
    ids=["answer", "user", "system", "others"],
)
def test_where_a_template_differs_is_said(old: str, new: str, words: str) -> None:
    assert _TURNS.count(old) == 1
    difference = _difference(_TURNS, _TURNS.replace(old, new))
    assert in_words(difference, _TURNS.split("\n")) == words


def test_of_many_places_the_first_two_are_named() -> None:
    lines = [f"line {number}" for number in range(60)]
    other = [f"{line}!" if number % 20 == 9 else line for number, line in enumerate(lines)]
    said = in_words(_difference("\n".join(lines), "\n".join(other)), lines)
    assert said.endswith("; 1 more place below")
    assert said.count("is new") == 2


def test_white_space_that_differs_is_visible() -> None:
    marks = [
        piece.text
        for one in blocks(_difference(TEMPLATE, TEMPLATE.replace("|>\n", "|> ")))
        for piece in one.pieces
        if piece.differs
    ]
    assert marks == ["⏎\n", "·"]


@pytest.mark.parametrize("side", ["bundle", "reference"])
def test_an_answer_that_goes_on_after_productions_end_is_to_be_read(same: CellContent, side: str) -> None:
    """A checkpoint that lost a stop id: float32 runs on as the bundle does, or alone."""
    first, *rest = answers()
    past = {f"{side}_ended": False, side: f"{getattr(first, side)}\nsystem", "tokens": 16}
    found = replace(same, candidate=_with_details(same.candidate, answers=(first.model_copy(update=past), *rest)))
    to_judge = [one.text for one in findings(found) if one.severity == "look" and one.anchor == "answers"]
    said = "To 1 prompt, an answer ends for phi:1.0.0@iphone-15 and goes on after the same words here, in float32 or in"
    assert to_judge[-1] == f"{said} the bundle."
    row = next(row for row in answer_rows(found) if row.prompt == first.prompt)
    shown = row.candidate if side == "bundle" else row.reference
    assert "goes on where" in shown.end


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "identical to 1.1.0's, byte for byte"),
        ({"files": ["chat_template.jinja"]}, "weights the same, the template differs (chat_template.jinja)"),
        ({"files": ["model.gguf"]}, "the same recipe, checkpoint and tools, yet model.gguf differs"),
        ({"files": ["model.gguf"], "checkpoint": "sha256:" + "9" * 64}, "another checkpoint, the same recipe"),
    ],
)
def test_what_a_cell_is_next_to_productions_is_one_phrase(
    same: CellContent, changes: dict[str, Any], said: str
) -> None:
    files = {"files": _other(same, *changes["files"])} if "files" in changes else {}
    assert at_a_glance(_of_both(same, {}, changes | files)) == said


def test_another_recipe_and_a_new_cell_are_called_so(same: CellContent) -> None:
    recipe = same.candidate.manifest.recipe.model_copy(update={"name": "gguf-iq4_nl"})
    found = _of_both(same, {}, {"recipe": recipe, "files": _other(same, "model.gguf")})
    before, after = (recipe_of(side.manifest) for side in (found.baseline or same.candidate, found.candidate))
    assert at_a_glance(found) == f"another recipe: {before} → {after}"
    alone = replace(same, baseline=None)
    assert at_a_glance(alone, "phi:production") == "new cell: phi:production has none"
    assert at_a_glance(replace(alone, problem="gone"), "phi:production") == "can't be compared"


def _other(cell: CellContent, *paths: str) -> list[Any]:
    """Return the files of a bundle, these with another digest."""
    files = cell.candidate.manifest.files
    return [one.model_copy(update={"sha256": "f" * 64}) if one.path in paths else one for one in files]


def _difference(before: str, after: str) -> tuple[str, ...]:
    return tuple(difflib.unified_diff(before.split("\n"), after.split("\n"), "a", "b", lineterm=""))


def _generation(cell: CellContent, changes: dict[str, Any]) -> Any:
    return cell.candidate.manifest.generation.model_copy(update=changes)


def test_a_cell_that_is_for_other_phones_now_says_so(same: CellContent) -> None:
    assert same.baseline is not None
    assert same.baseline.evidence is not None
    evidence = same.baseline.evidence.model_copy(update={"target": "pixel-9"})
    other = replace(same, baseline=replace(same.baseline, evidence=evidence))
    said = "For the app: phones: pixel-9 becomes iphone-15: gates and predictions are of another device."
    assert [one.severity for one in findings(other) if one.text == said] == ["look"]
    assert "phones" not in [one.what for one in app_changes(same) if one.changed]


def _of_both(cell: CellContent, before: dict[str, Any], after: dict[str, Any]) -> CellContent:
    """Return a cell with these parts of the two manifests."""
    assert cell.baseline is not None
    old, new = (
        replace(side, manifest=side.manifest.model_copy(update=changes))
        for side, changes in ((cell.baseline, before), (cell.candidate, after))
    )
    return replace(cell, candidate=new, baseline=old)


def _with_figures(cell: CellContent, before: dict[str, float], after: dict[str, float]) -> CellContent:
    assert cell.baseline is not None
    sides = []
    for side, values in ((cell.baseline, before), (cell.candidate, after)):
        assert side.evidence is not None
        figures = {name: Figure(value=value, unit="1", kind="measured", on="x") for name, value in values.items()}
        sides.append(replace(side, evidence=side.evidence.model_copy(update={"figures": figures})))
    return replace(cell, baseline=sides[0], candidate=sides[1])


def _with_details(side: Subject, **changes: Any) -> Subject:
    assert side.evidence is not None
    return replace(side, evidence=side.evidence.model_copy(update={"details": details(**changes)}))
