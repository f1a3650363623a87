"""What misled reviewers: a reference that moves with the candidate, white space, ids without text, and noise."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from builders.report.answers import answer_rows, same_as_before
from builders.report.changes import app_changes, origin_changes
from builders.report.comparing import FigureRow, figure_rows, figures_in_short
from builders.report.content import CellContent, Content, Subject
from builders.report.findings import findings, judged, overall, to_look_at
from builders.report.page import html
from registry.bundle.manifest import AdapterEntry
from registry.diff.layers import LayerChanges
from targets.evidence import FIGURES, Figure
from targets.evidence_details import NotRun, Reach, SpeedRuns
from tests.support.parsed_html import parsed
from tests.support.report_samples import answers, checks, details

OTHER = "sha256:" + "9" * 64
TEXT = "sha256:" + "d" * 64 + ", {} windows of 512 tokens"


@pytest.fixture
def same(cell: CellContent) -> CellContent:
    """A cell that is exactly what production has."""
    assert cell.baseline is not None
    return CellContent(cell.candidate, replace(cell.candidate, name=cell.baseline.name))


@pytest.mark.parametrize(("after", "rank"), [(74.6, "defect"), (15.6, "defect"), (15.4, "look"), (14.3, ""), (9.0, "")])
def test_a_checkpoint_that_is_much_worse_than_productions_is_a_probable_defect(
    same: CellContent, after: float, rank: str
) -> None:
    before = {"reference_perplexity": 14.1, "perplexity": 14.3, "kl_mean": 0.02}
    found = _of_another_checkpoint(_with_figures(same, before, before | {"reference_perplexity": after}))
    said = [one for one in findings(found) if "perplexity" in one.text and one.severity != "note"]
    said = [one for one in said if not one.text.startswith("The checkpoint is another one")]
    assert [one.severity for one in said] == ([rank] if rank else [])
    if rank == "defect":
        assert said[0].text.startswith(
            "The checkpoint itself is worse than that of phi:1.0.0@iphone-15, whatever was built from it: on the same"
            f" text its perplexity in float32 is {after:.4g}, and 14.1 for that one."
        )
        whole = overall(Content("phi:1.1.0", (found,)))
        assert whole.word == "Passes its gates; a probable defect"
        assert whole.text.startswith("The checkpoint itself is worse than that of phi:1.0.0@iphone-15, whatever")
        assert (whole.state, whole.look, judged(found).look) == ("warn", "defect", "defect")
        assert '<p class="verdict is-defect">' in html(Content("phi:1.1.0", (found,))).decode()


def test_a_worse_checkpoint_of_another_window_may_have_the_same_weights(same: CellContent) -> None:
    """A Core ML program's weights move with its tables of positions, so that nobody knows whether they are others."""
    window = Reach(context_length=4096, sliding_window=448, rope="plain, base 10,000")
    before, after = {"reference_perplexity": 14.1}, {"reference_perplexity": 74.6}
    found = _of_another_checkpoint(_with_details(_with_figures(same, before, after), reach=window))
    unknown, known = (
        next(one.text for one in findings(cell) if one.text.startswith("The checkpoint itself is worse"))
        for cell in (found, replace(found, layers=LayerChanges(same=(), changed=(0,))))
    )
    configuration = "Its configuration is another one (sliding window, tokens: 2,047 becomes 448)"
    assert unknown == f"{known} {configuration}; whether its weights are others is not known."


def test_checks_say_where_they_compare_with_the_candidates_own_checkpoint(cell: CellContent, same: CellContent) -> None:
    said = "The chat template and stop ids differ from 1.0.0's. Checks of template and ids compare with the"
    (shown,) = (one.text for one in _page(cell).all("p") if one.text.startswith("10 of 10 pass"))
    assert said in shown
    assert "compare with the candidate's own checkpoint" not in _page(same).text
    template = _of_another_checkpoint(cell, files=["chat_template.jinja"])
    (note,) = (one for one in findings(template) if one.text.startswith("The checkpoint is another one"))
    assert "every file with weights is the same. The chat template" in note.text


def test_white_space_at_an_answers_ends_is_visible_and_a_defect_where_all_begin_with_it(same: CellContent) -> None:
    begun = tuple(
        one.model_copy(update={"bundle": f"\n{one.bundle} ", "reference": f"\n{one.reference}"}) for one in answers()
    )
    found = _with_details(same, answers=begun)
    (said,) = (one for one in findings(found) if one.severity == "defect")
    assert said.text.startswith("All 4 answers begin with a line break (⏎), and none of phi:1.0.0@iphone-15 does:")
    for row in answer_rows(found):
        shown = "".join(piece.text for piece in row.candidate.pieces)
        assert shown.startswith("⏎\n")
        assert shown.endswith("·")
        assert row.reference.pieces[0].text.startswith("⏎\n")
        assert row.baseline is not None
        assert "⏎" not in "".join(piece.text for piece in row.baseline.pieces)
    assert not [one for one in findings(_with_details(same, answers=begun[:2])) if "begin with" in one.text]
    one_without = _with_details(same, answers=(*begun[1:], answers()[0]))
    assert not [one for one in findings(one_without) if "begin with" in one.text]
    assert same.baseline is not None
    both = replace(found, baseline=replace(found.candidate, name=same.baseline.name))
    assert not [one for one in findings(both) if "begin with" in one.text]


def test_the_same_first_word_of_all_answers_is_to_be_judged(same: CellContent) -> None:
    begun = tuple(one.model_copy(update={"bundle": f"assistant {one.bundle}"}) for one in answers())
    said = [one for one in findings(_with_details(same, answers=begun)) if "begin with" in one.text]
    text = "All 4 answers begin with “assistant”, and none of phi:1.0.0@iphone-15 does."
    assert [(one.severity, one.text) for one in said] == [("look", text)]


def test_ids_have_their_text(same: CellContent) -> None:
    assert same.baseline is not None
    tokens = {0: "<|endoftext|>", 1: "<|im_start|>", 2: "<|im_end|>"}
    old, new = (_with_stops(side, ids, tokens) for side, ids in ((same.baseline, [0, 2]), (same.candidate, [0, 1, 2])))
    change = next(one for one in app_changes(CellContent(new, old)) if one.what == "stop ids")
    assert change.before == "0 <|endoftext|>, 2 <|im_end|>"
    assert change.after == "0 <|endoftext|>, 1 <|im_start|> (also BOS), 2 <|im_end|>"
    assert change.meaning == "answers end with 1 <|im_start|> (also BOS), too"
    assert next(one for one in app_changes(CellContent(new, old)) if one.what == "BOS id").after == "1 <|im_start|>"


def test_answers_that_are_productions_are_counted(cell: CellContent, same: CellContent) -> None:
    assert same_as_before(same) == 4
    other = answers()[0].model_copy(update={"bundle": "Another answer."})
    assert same_as_before(_with_details(same, answers=(other, *answers()[1:]))) == 3
    assert same_as_before(replace(same, baseline=None)) is None
    said = "Of 4 answers, 4 are the same as phi:1.0.0@iphone-15's, 1 the same as float32's."
    assert said in _page(cell).text


@pytest.mark.parametrize(
    ("name", "windows", "before", "after", "word"),
    [
        ("greedy_match_share", 2, 1.0, 0.84, ""),
        ("greedy_match_share", 2, 1.0, 0.03, ""),
        ("greedy_match_share", 8, 1.0, 0.84, ""),
        ("greedy_match_share", 8, 1.0, 0.3, "worse"),
        ("perplexity", 2, 14.34, 14.38, ""),
        ("perplexity", 2, 14.34, 16.14, "worse"),
        ("perplexity_ratio", 2, 1.016, 1.019, ""),
        ("perplexity", 2000, 14.34, 14.38, "worse"),
        ("empty_share", 2, 0.0, 0.25, ""),
        ("empty_share", 2, 0.0, 1.0, "worse"),
        ("empty_share", 2, 0.0, inf, "worse"),  # numbers that no validation writes make no page fail
        ("empty_share", 2, 0.5, 7.0, "worse"),
        ("perplexity", 2, 14.3, inf, "worse"),
        ("perplexity", 2, inf, inf, ""),
        ("perplexity", 0, 14.34, 99.0, "worse"),
    ],
)
def test_what_may_be_chance_is_not_worse(
    same: CellContent, name: str, windows: int, before: float, after: float, word: str
) -> None:
    values = ({"kl_mean": 0.02, name: one} for one in (before, after))
    found = _with_figures(same, *values, text=TEXT.format(windows))
    assert _row(found, name).word == word
    assert word or not [one for one in findings(found) if one.anchor == "baseline"]


@pytest.mark.parametrize(("spread", "load", "busy"), [(0.02, 0.1, False), (0.2, 0.1, True), (0.02, 1.5, True)])
def test_the_speed_of_a_busy_host_is_not_compared(same: CellContent, spread: float, load: float, *, busy: bool) -> None:
    name = "decode_tokens_per_second"
    runs = SpeedRuns(figure=name, values=(10.0, 10.2, 10.4), spread=spread, other_load=load)
    found = _with_details(_with_figures(same, {name: 20.0}, {name: 10.0}), speed=(runs,))
    row = _row(found, name)
    assert row.word == ""
    assert (row.remark, row.change) == (
        ("this machine, busy: not comparable", "\N{EN DASH}") if busy else ("", "-10 token/s")
    )
    assert (row.remark in _page(found).text) or not busy


def test_a_recipe_that_is_closer_by_text_is_no_part_of_what_is_worse(same: CellContent) -> None:
    values = ({"kl_mean": 0.02, "kl_p99": one} for one in (0.2, 0.3))
    recipe = same.candidate.manifest.recipe.model_copy(update={"name": "gguf-q6_k"})
    found = _with_details(_with_figures(same, *values), texts=details(worse=0.5).texts)
    new = replace(found.candidate, manifest=found.candidate.manifest.model_copy(update={"recipe": recipe}))
    (said,) = (one.text for one in findings(replace(found, candidate=new)) if one.anchor == "baseline")
    assert said.endswith("gguf-q6_k.")
    assert "times 1.0.0's" not in said


@pytest.mark.parametrize("kind", ["another suite", "not run"])
def test_checks_that_production_had_are_to_be_judged_and_in_the_banner(same: CellContent, kind: str) -> None:
    left = tuple(one for one in checks() if one.group != "degeneration")
    changes: dict[str, Any] = {"checks": left}
    if kind == "not run":
        changes["not_run"] = (NotRun(group="degeneration", name="loops", reason="float32 loops, too"),)
    else:
        changes["suite"] = "quick"
    found = _with_details(same, **changes)
    (said,) = (one for one in findings(found) if "not made here" in one.text)
    assert said.severity == "look"
    assert said.text.startswith("1 check of phi:1.0.0@iphone-15 was not made here: degeneration: loops.")
    banner = "every check that was made; 1 check that {} has was not made"
    assert overall(Content("phi:1.1.0", (found,))).text.endswith(banner.format("production"))
    assert overall(Content("phi:1.1.0", (found,), against="phi:0.9.0")).text.endswith(banner.format("phi:0.9.0"))


def test_the_checks_that_are_named_are_of_different_groups(same: CellContent) -> None:
    found = _with_details(same, checks=checks()[:1])
    (said,) = (one.text for one in findings(found) if "not made here" in one.text)
    assert said.startswith("9 checks of phi:1.0.0@iphone-15 were not made here: ids: stop id 32000")
    assert all(part in said for part in ("template: 1 turn", "degeneration: loops", "cache: q8_0", "; and 5 more."))


def test_how_the_checkpoint_is_read_is_no_figure_of_the_candidate(same: CellContent) -> None:
    values = {"reference_difference": 1e-4, "reference_state_difference": 5e-5}
    found = _with_figures(same, values | {"kl_mean": 0.02}, values | {"kl_mean": 0.02})
    for name in values:
        row = _row(found, name)
        assert row.remark == "how exactly phipack reads a checkpoint: no measure of its quality"
        assert (row.word, row.change) == ("", "\N{EN DASH}")
        (shown,) = (one for one in _page(found).all("tr") if one.children and one.children[0].text == row.title)
        assert shown.children[1].text == row.remark
    said = "3 figures: 0 better, 0 worse, 1 the same, 2 not judged (chance, or not comparable)."
    assert figures_in_short(figure_rows(found)) == said


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("production's", "the base is the checkpoint of 1.0.0"),
        ("its base", "the base is that of 1.0.0, into which another adapter is merged"),
        ("another", f"the base is not the checkpoint of 1.0.0, but {'6' * 12}"),
    ],
)
def test_a_merge_says_whether_its_base_is_productions_checkpoint(cell: CellContent, base: str, said: str) -> None:
    assert cell.baseline is not None
    old, note = cell.baseline.manifest, "an adapter is merged into the base; tokenizer and chat template are the base's"
    bases = {"production's": old.checkpoint, "its base": "sha256:" + "7" * 64, "another": "sha256:" + "6" * 64}
    if base == "its base":
        old = old.model_copy(update={"merged_from": AdapterEntry(base=bases[base], adapter="sha256:" + "5" * 64)})
    merged = {
        "merged_from": AdapterEntry(base=bases[base], adapter="sha256:" + "8" * 64),
        "recipe": cell.candidate.manifest.recipe.model_copy(update={"notes": [note]}),
    }
    found = replace(
        cell,
        candidate=replace(cell.candidate, manifest=cell.candidate.manifest.model_copy(update=merged)),
        baseline=replace(cell.baseline, manifest=old),
    )
    assert [one.text for one in findings(found) if "adapter" in one.text] == [f"New in this build: {note}; {said}."]
    (change,) = (one for one in origin_changes(found) if one.what == "adapter")
    assert change.meaning == said
    assert change.after == f"{'8' * 12}, merged into {bases[base][7:19]}"
    assert not [one for one in origin_changes(cell) if one.what == "adapter"]
    assert found.baseline is not None
    undone = replace(found, candidate=found.baseline, baseline=found.candidate)
    (change,) = (one for one in origin_changes(undone) if one.what == "adapter")
    without = "the checkpoint is the base of 1.1.0, without its adapter"
    assert change.meaning == {"production's": without, "another": ""}.get(base, change.meaning)


def test_files_that_are_all_the_same_are_not_said_to_be_compared_apart(same: CellContent) -> None:
    """A checkpoint that was saved again."""
    found = _of_another_checkpoint(same, files=["no file"])
    page = _page(found).text
    assert "identical to 1.1.0's, byte for byte" in page
    assert "every file that is made from the two is the same, byte for byte" in page
    assert "but every file of the bundle is the same." in page
    assert "different float32 models" not in page
    assert "neither is called better" not in page
    apart = _page(_of_another_checkpoint(same)).text
    assert "the two are compared with different float32 models" in apart
    assert "compare each with a checkpoint of its own: neither is called better" in apart


def test_banner_and_cell_count_the_same(same: CellContent) -> None:
    before = {"reference_perplexity": 14.1, "perplexity": 14.3, "kl_mean": 0.02}
    worse = _of_another_checkpoint(_with_figures(same, before, before | {"reference_perplexity": 74.6}))
    for found, state in ((worse, "a probable defect"), (_of_another_checkpoint(same), "look at"), (same, "Passes")):
        shown = [one.severity for one in findings(found)]
        defects, others = shown.count("defect"), shown.count("look")
        parts = [f"{defects} probable defect"] * (defects > 0) + [f"{others} to judge"] * (others > 0)
        assert to_look_at(found) == (", ".join(parts) or "0")
        banner = overall(Content("phi:1.1.0", (found,)))
        assert state in banner.word
        assert (f"{others} {'thing' if others == 1 else 'things'} to judge" in banner.text) == (others > 0)
        (cell,) = (one.text for one in _page(found).all("td") if one.attributes.get("data-label") == "To look at")
        assert cell == to_look_at(found)


def test_what_fails_is_counted_apart(same: CellContent) -> None:
    failed = _with_details(same, checks=checks(("ids", "stop id 5", "expected 5, found 6")))
    assert to_look_at(failed).startswith("1 failed")


def _page(cell: CellContent) -> Any:
    return parsed(html(Content("phi:1.1.0", (cell,), against="phi:production")))


def _row(cell: CellContent, name: str) -> FigureRow:
    return next(row for row in figure_rows(cell) if row.name == name)


def _with_stops(side: Subject, ids: list[int], tokens: dict[int, str]) -> Subject:
    generation = side.manifest.generation.model_copy(update={"stop_token_ids": ids, "bos_token_id": 1})
    return replace(side, manifest=side.manifest.model_copy(update={"generation": generation}), tokens=tokens)


def _with_details(cell: CellContent, **changes: Any) -> CellContent:
    evidence = cell.candidate.evidence
    assert evidence is not None
    given = evidence.model_copy(update={"details": details(**({"tasks": (), "safety": ()} | changes))})
    return replace(cell, candidate=replace(cell.candidate, evidence=given))


def _with_figures(
    cell: CellContent, before: dict[str, float], after: dict[str, float], text: str = TEXT.format(8)
) -> CellContent:
    assert cell.baseline is not None
    sides = []
    for side, values in ((cell.baseline, before), (cell.candidate, after)):
        assert side.evidence is not None
        figures = {
            name: Figure(value=value, unit=FIGURES[name][0], kind="measured", on="x") for name, value in values.items()
        }
        sides.append(replace(side, evidence=side.evidence.model_copy(update={"figures": figures, "text": text})))
    return replace(cell, baseline=sides[0], candidate=sides[1])


def _of_another_checkpoint(cell: CellContent, files: list[str] | None = None) -> CellContent:
    """Return a cell of another checkpoint, whose bundle differs from production's in these files."""
    manifest, evidence = cell.candidate.manifest, cell.candidate.evidence
    assert evidence is not None
    assert cell.baseline is not None
    changed = files or ["model.gguf"]
    entries = [
        one.model_copy(update={"sha256": "f" * 64}) if one.path in changed else one
        for one in cell.baseline.manifest.files
    ]
    new = replace(
        cell.candidate,
        manifest=manifest.model_copy(update={"checkpoint": OTHER, "files": entries}),
        evidence=evidence.model_copy(update={"checkpoint": OTHER}),
    )
    return replace(cell, candidate=new)
