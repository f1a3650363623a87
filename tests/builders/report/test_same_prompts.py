"""Templates that write the same prompts, weights with another configuration, a cache that the app sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from builders.report.at_a_glance import at_a_glance
from builders.report.change import Change
from builders.report.changes import app_changes, own_checkpoint
from builders.report.content import CellContent, Content, Subject
from builders.report.findings import findings, overall
from builders.report.page import html
from builders.report.same_prompts import Prompting, SamePrompts, compare_prompts
from targets.evidence import Figure
from tests.support.parsed_html import parsed

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
REWRITTEN = """\
{%- for message in messages -%}
  {{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}
"""
OTHER = "sha256:" + "9" * 64


def test_a_rewritten_template_writes_the_same_prompts() -> None:
    found = compare_prompts(Prompting(TEMPLATE, {}), Prompting(REWRITTEN, {}))
    assert found.different == ()
    assert found.rendered > 30


@pytest.mark.parametrize(
    ("after", "first"),
    [
        (TEMPLATE.replace("<|assistant|>\n", "<|assistant|>"), "a user's turn, plain"),
        (TEMPLATE.replace("m.content", "m.content | trim"), "a user's turn, white space"),
        (TEMPLATE.replace("{% for m", "{{ bos_token }}{% for m"), "a user's turn, plain"),
        ("{{ raise_exception('no') }}", "a user's turn, plain"),
    ],
)
def test_a_prompt_that_becomes_another_is_found(after: str, first: str) -> None:
    found = compare_prompts(Prompting(TEMPLATE, {"bos_token": "<s>"}), Prompting(after, {"bos_token": "<s>"}))
    assert found.different[0] == first


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("in messages", "in messages[-1:]"), ("earlier turns", "the system message")),
        (("in messages", "in messages if m.role != 'system'"), ("the system message",)),
        (("m.content }}", "m.content[:20] }}"), ("earlier turns", "the system message", "the last turn")),
        (("m.content }}", "m.content if loop.last else '' }}"), ("earlier turns", "the system message")),
        (("{{ tools }}", ""), ("the list of tools",)),
    ],
)
def test_text_that_no_longer_reaches_the_model_is_named(change: tuple[str, str], parts: tuple[str, ...]) -> None:
    before = "{% if tools %}{{ tools }}{% endif %}" + TEMPLATE
    assert before.count(change[0]) == 1
    found = compare_prompts(Prompting(before, {}), Prompting(before.replace(*change), {}))
    assert tuple(found.lost_parts) == parts
    assert all(0 < number <= len(found.lost) for number in found.lost_parts.values())
    assert 0 < len(found.lost) <= len(found.different) <= found.rendered
    assert found.refused == ()


@pytest.mark.parametrize(
    "after",
    [
        TEMPLATE.replace("<|end|>", "<|eot|>").replace("{{ m.role }}", "{{ m.role | upper }}"),
        TEMPLATE.replace("m.content", "m.content | trim"),
        TEMPLATE.replace("m.content", "m.content | tojson"),
        TEMPLATE.replace("m.content", "m.content | replace('<|end|>', '')"),
        TEMPLATE.replace("<|end|>\n", "<|end|>\n\n"),
        "{% if messages[0].role != 'system' %}<|system|>\nHello, be brief.<|end|>\n{% endif %}" + TEMPLATE,
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_that_writes_every_message_loses_none(after: str) -> None:
    for sides in ((TEMPLATE, after), (after, TEMPLATE)):
        found = compare_prompts(*(Prompting(side, {}) for side in sides))
        assert found.different
        assert (found.lost, found.lost_parts) == ((), {})


def test_a_message_that_no_longer_reaches_the_model_is_a_probable_defect_and_named_first(cell: CellContent) -> None:
    found = compare_prompts(Prompting(TEMPLATE, {}), Prompting(TEMPLATE.replace("messages", "messages[-1:]"), {}))
    parts = "earlier turns (25) or of the system message (22)"
    effect = f"in 35 of 45 conversations, text of {parts} no longer reaches the model"
    assert _template(replace(cell, prompts=found)).effect == effect
    forgets = _without_a_stop_id(replace(cell, prompts=found))
    said = findings(forgets)
    assert [one.severity for one in said[:2]] == ["defect", "defect"]
    assert said[0].text.startswith(f"Chat template: {effect}. chat_template.jinja becomes another text")
    assert "of 45 conversations, 35 become another text" in said[0].text
    assert said[1].text.startswith("Stop ids: ")
    assert sum("hat template: " in one.text for one in said) == 1
    page = Content("phi:1.1.0", (forgets,), against="phi:production")
    assert overall(page).text.startswith(f"Chat template: {effect}. ")
    (shown,) = (one for one in parsed(html(page)).all("tr") if one.text.startswith("chat template"))
    assert effect in shown.text
    assert "probable defect" in shown.text
    assert "the app must follow" not in shown.text


def test_a_template_that_forgets_only_what_is_far_back_is_found_out(cell: CellContent) -> None:
    """The page said that the prompts are the same, by conversations of at most seven messages."""
    after = "{% set messages = messages[-10:] %}" + TEMPLATE
    found = compare_prompts(Prompting(TEMPLATE, {}), Prompting(after, {}))
    assert found.lost_parts == {"earlier turns": 4, "the system message": 2}
    (said, *_) = findings(replace(cell, prompts=found))
    assert said.severity == "defect"
    assert "in 4 of 45 conversations, text of earlier turns (4) or of the system message (2)" in said.text


def test_prompts_that_are_the_same_are_so_for_conversations_of_a_length(cell: CellContent) -> None:
    found = replace(cell, prompts=compare_prompts(Prompting(TEMPLATE, {}), Prompting(REWRITTEN, {})))
    said = "the prompts are the same: 45 conversations, of at most 42 messages, were rendered with both templates"
    assert _template(found).meaning == said


def test_a_template_that_changes_prompts_with_tools_alone_says_so(cell: CellContent) -> None:
    after = "{% if tools %}Call one of these: {{ tools }}{% endif %}" + TEMPLATE
    found = compare_prompts(Prompting(TEMPLATE, {}), Prompting(after, {}))
    assert found.example is not None
    assert "tools" in found.example.name
    change = _template(replace(cell, prompts=found))
    assert "3 become another text, all of them with tools: without tools nothing changes" in change.meaning


def test_tools_of_a_system_message_are_rendered_too(cell: CellContent) -> None:
    """As Phi-4-mini's template writes them: a template that stops doing so was said to write the same prompts."""
    tools = "{% if 'tools' in m %}<|tool|>{{ m['tools'] }}<|/tool|>{% endif %}"
    before = TEMPLATE.replace("{{ m.content }}", "{{ m.content }}" + tools)
    assert tools in before
    found = compare_prompts(Prompting(before, {}), Prompting(before.replace("{{ m['tools'] }}", ""), {}))
    assert found.different == ("system message with tools", "system message with tools, hard to write")
    assert found.lost_parts == {"the list of tools": 2}
    assert found.only_with_tools
    (said, *_) = findings(replace(cell, prompts=found))
    assert "in 2 of 51 conversations, text of the list of tools no longer reaches the model" in said.text


def test_code_that_is_too_long_for_a_sentence_stands_in_the_table(cell: CellContent) -> None:
    assert cell.difference is not None
    code = "{% if tools %}" + "{{ tools | tojson }}" * 20 + "{% endif %}"
    lines = ("--- old", "+++ new", "@@ -1 +1 @@", f"-{TEMPLATE}", f"+{code}{TEMPLATE}")
    found = replace(cell, difference=replace(cell.difference, template=lines), prompts=SamePrompts(44, ("1 turns",)))
    change = _template(found)
    assert "tojson" in change.detail
    assert not [one for one in findings(found) if "tojson" in one.text]
    (shown,) = (
        one for one in parsed(html(Content("phi:1.1.0", (found,), against="x"))).all("tr") if change.detail in one.text
    )
    assert shown.text.startswith("chat template")


def test_a_conversation_is_shown_as_both_templates_write_it(cell: CellContent) -> None:
    found = compare_prompts(Prompting(TEMPLATE, {}), Prompting(TEMPLATE.replace("messages", "messages[-1:]"), {}))
    example = found.example
    assert example is not None
    assert example.before is not None
    assert example.after is not None
    assert example.before.endswith(example.after)
    assert "My name is Ada." in example.before
    assert "My name is Ada." not in example.after
    page = parsed(html(Content("phi:1.1.0", (replace(cell, prompts=found),), against="phi:production")))
    (heading,) = (one for one in page.all("h4") if one.text.startswith("A conversation as both templates write it: "))
    assert heading.text.endswith(example.name)
    (shown,) = (
        one
        for one in page.all("div")
        if str(one.attributes.get("aria-label", "")).endswith("a conversation as both templates write it")
    )
    gone, new = shown.all("pre")
    assert gone.all("mark")
    assert not new.all("mark")


def test_a_template_that_loses_text_says_nothing_of_stop_ids(cell: CellContent) -> None:
    """A lost stop id explains answers that go on, and its note; a lost message does not."""
    lost = SamePrompts(40, ("6 turns",), lost=("6 turns",), lost_parts={"earlier turns": 1})
    new = cell.candidate.manifest
    notes = ["2 <|im_end|> is not among the stop ids"]
    with_note = _with(cell.candidate, recipe=new.recipe.model_copy(update={"notes": notes}))
    said = [one for one in findings(replace(cell, candidate=with_note, prompts=lost)) if one.severity == "defect"]
    assert [one.text.partition(":")[0] for one in said] == ["Chat template", "Stop ids"]
    assert "stop ids" not in said[0].text


def test_a_conversation_that_the_new_template_refuses_is_said_to_be(cell: CellContent) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE
    found = compare_prompts(Prompting(TEMPLATE, {}), Prompting(refusing, {}))
    assert len(found.refused) == len(found.different) > 0
    change = _template(replace(cell, prompts=found))
    assert (change.must_follow, change.loses) == (True, False)
    assert change.meaning.startswith(f"of {found.rendered} conversations, {len(found.refused)} are refused")


def test_a_conversation_that_both_refuse_is_not_said_to_be_rendered() -> None:
    short = "{% if messages | length > 3 or messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    both = compare_prompts(Prompting(TEMPLATE, {}), Prompting(REWRITTEN, {}))
    found = compare_prompts(Prompting(short + TEMPLATE, {}), Prompting(short + REWRITTEN, {}))
    assert found.different == ()
    assert 0 < found.rendered < both.rendered / 2
    assert found.longest == 3


def test_templates_that_refuse_everything_are_not_said_to_write_the_same(cell: CellContent) -> None:
    refusing = [Prompting(f"{{{{ raise_exception('{why}') }}}}{TEMPLATE}", {}) for why in ("no", "never")]
    change = _template(replace(cell, prompts=compare_prompts(*refusing)))
    assert change.must_follow
    assert "not known: both templates refuse each of" in change.meaning


def test_special_tokens_are_part_of_a_prompt() -> None:
    template = f"{{{{ bos_token }}}}{TEMPLATE}"
    sides = [Prompting(template, {"bos_token": token}) for token in ("<s>", "</s>")]
    assert len(compare_prompts(*sides).different) == compare_prompts(*sides).rendered
    assert compare_prompts(sides[0], sides[0]).different == ()


def test_an_app_has_nothing_to_follow_where_the_prompts_are_the_same(cell: CellContent) -> None:
    assert _template(cell).must_follow
    same = replace(cell, prompts=SamePrompts(43, ()))
    change = _template(same)
    assert (change.changed, change.must_follow) == (True, False)
    assert change.meaning == "the prompts are the same: 43 conversations were rendered with both templates"
    assert "chat template" not in own_checkpoint(same)
    assert not [one for one in findings(same) if one.text.startswith("For the app: chat template")]
    unknown = replace(cell, prompts=SamePrompts(0, (), "it was stopped"))
    assert _template(unknown).must_follow
    assert _template(unknown).meaning.startswith("whether the prompts are the same is not known: it was stopped")
    assert "chat template" in own_checkpoint(unknown)
    other = replace(cell, prompts=SamePrompts(43, ("a user's turn, plain",)))
    assert _template(other).must_follow
    assert _template(other).meaning.startswith("of 43 conversations, 1 becomes another text")
    assert "chat template" in own_checkpoint(other)


def test_a_cell_with_another_cache_is_no_copy_of_productions(cell: CellContent) -> None:
    old = _same(cell)
    recipe = old.candidate.manifest.recipe.model_copy(update={"kv_cache": "q8_0"})
    found = replace(old, candidate=_with(old.candidate, recipe=recipe))
    assert at_a_glance(found).startswith("the same files, another recipe: ")
    (change,) = (one for one in app_changes(found) if one.what == "KV cache")
    assert (change.must_follow, change.after) == (True, "q8_0")
    assert [one.text for one in findings(found) if "the app sets this type" in one.text]


@pytest.mark.parametrize(("after", "severity"), [(15.16, "defect"), (14.12, "")])
def test_the_same_weights_that_predict_worse_have_another_configuration(
    cell: CellContent, after: float, severity: str
) -> None:
    old = _same(cell)
    assert old.baseline is not None
    sides = [
        _measured(_with(side, files=_files(side, graph), checkpoint=checkpoint), checkpoint, value)
        for side, graph, checkpoint, value in (
            (old.baseline, "a" * 64, old.baseline.manifest.checkpoint, 14.11),
            (old.candidate, "b" * 64, OTHER, after),
        )
    ]
    found = replace(old, baseline=sides[0], candidate=sides[1])
    assert at_a_glance(found) == "weights the same, model.onnx differs"
    said = [one for one in findings(found) if one.text.startswith("The weights are those of ")]
    assert [one.severity for one in said] == ([severity] if severity else [])
    if said:
        assert "is 15.16, and was 14.11. The checkpoint's configuration is another one" in said[0].text
    (checkpoint,) = (one for one in findings(found) if one.text.startswith("The checkpoint is another one"))
    assert checkpoint.severity == "look"
    assert "every file with weights is the same. Its configuration is another one: model.onnx." in checkpoint.text


def _template(cell: CellContent) -> Change:
    return next(one for one in app_changes(cell) if one.what == "chat template")


def _without_a_stop_id(cell: CellContent) -> CellContent:
    generation = cell.candidate.manifest.generation.model_copy(update={"stop_token_ids": [32000]})
    return replace(cell, candidate=_with(cell.candidate, generation=generation))


def _same(cell: CellContent) -> CellContent:
    assert cell.baseline is not None
    return CellContent(cell.candidate, replace(cell.candidate, name=cell.baseline.name))


def _with(side: Subject, **changes: object) -> Subject:
    return replace(side, manifest=side.manifest.model_copy(update=changes))


def _files(side: Subject, graph: str) -> Sequence[object]:
    weights = max(side.manifest.files, key=lambda entry: entry.bytes)
    rest = [entry for entry in side.manifest.files if entry is not weights]
    as_onnx = [weights.model_copy(update={"path": "model.onnx.data"})]
    return [*as_onnx, weights.model_copy(update={"path": "model.onnx", "sha256": graph, "bytes": 1}), *rest]


def _measured(side: Subject, checkpoint: str, perplexity: float) -> Subject:
    assert side.evidence is not None
    figures = {"reference_perplexity": Figure(value=perplexity, unit="1", kind="measured", on="x")}
    return replace(side, evidence=side.evidence.model_copy(update={"figures": figures, "checkpoint": checkpoint}))
