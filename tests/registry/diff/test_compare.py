"""What changed between two bundles: all of it, and nothing else."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devtools.bundles import make_bundle, make_evidence
from registry.bundle.folder import Bundle, file_entries, seal
from registry.bundle.manifest import FileEntry, GenerationEntry, WeightClass
from registry.diff.compare import Change, FigureChange, Side, changes, compare, folder_side, pairs, version_side
from registry.ledger.ledger import Ledger
from targets.errors import BundleError, StoreError
from targets.evidence import Figure
from targets.runtimes.table import requires
from tests.support.databases import Databases, KeptRegistry, keep_registry
from tests.support.gguf_files import write_gguf
from tests.support.registrations import client_of, entry

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"


def with_manifest(bundle: Bundle, **changed: Any) -> Bundle:
    """The bundle sealed again with a changed manifest."""
    return seal(bundle.path, bundle.manifest.model_copy(update={"files": file_entries(bundle.path)} | changed))


def gguf_bundle(folder: Path, seed: int, name: str = "one", template: str = TEMPLATE) -> Bundle:
    rng = np.random.default_rng(0)
    arrays = {name: rng.random((4, 32), np.float32) for name in ("kept", "nudged", "gone" if seed == 0 else "new")}
    arrays["nudged"][0, 0] += seed
    write_gguf(folder / "model.gguf", arrays, general_name=name)
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    generation = GenerationEntry(
        stop_token_ids=[2], bos_token_id=1, pad_token_id=None, chat_template="chat_template.jinja"
    )
    return with_manifest(make_bundle(folder, {}), generation=generation)


def names(found: tuple[Change[Any], ...]) -> dict[str, str]:
    return {change.name: change.kind for change in found}


def test_the_same_bundle_has_no_difference(bundle: Bundle) -> None:
    found = compare(folder_side(bundle.path), folder_side(bundle.path))
    assert not found.differs
    assert (found.files, found.facts, found.weights, found.template, found.tensors) == ((), (), (), (), None)


def test_files_by_digest(bundle: Bundle, tmp_path: Path) -> None:
    contents = {"model.gguf": b"other" * 1000, "added.json": b"{}", "tokenizer.json": b"{}"}
    other = make_bundle(tmp_path / "other", contents)
    found = compare(folder_side(bundle.path), folder_side(other.path), read_tensors=False)
    assert found.differs
    assert names(found.files) == {
        "added.json": "added",
        "model.gguf": "changed",
        "model.mlpackage/Data/weights.bin": "removed",
    }
    assert found.tensors is None
    (changed,) = [change for change in found.files if change.kind == "changed"]
    assert changed.before
    assert changed.after
    assert (changed.before.bytes, changed.after.bytes) == (7000, 5000)


def test_every_fact_of_the_manifest_is_compared(bundle: Bundle, tmp_path: Path) -> None:
    old = bundle.manifest
    weights = [WeightClass(storage="Q4_K", tensors=3, bytes=30), WeightClass(storage="F32", tensors=1, bytes=4)]
    other = make_bundle(tmp_path / "other")
    newer = with_manifest(
        other,
        model=old.model.model_copy(update={"context_length": 128, "exact_context_length": 100}),
        recipe=old.recipe.model_copy(update={"name": "gguf-q4_k_m", "notes": ["a limit"], "weights": weights}),
        checkpoint="sha256:" + "e" * 64,
        generation=old.generation.model_copy(update={"stop_token_ids": [2, 7], "pad_token_id": 3}),
        tools={"phipack": "0.2.0", "gguf": "1"},
    )
    found = compare(folder_side(bundle.path), folder_side(newer.path))
    assert {change.name: (change.before, change.after) for change in found.facts} == {
        "model.context_length": (64, 128),
        "model.exact_context_length": (64, 100),
        "recipe.name": ("gguf-q4_0", "gguf-q4_k_m"),
        "recipe.notes": ([], ["a limit"]),
        "checkpoint": (old.checkpoint, "sha256:" + "e" * 64),
        "generation.stop_token_ids": ([2], [2, 7]),
        "generation.pad_token_id": (None, 3),
        "tools.phipack": ("0.1.0", "0.2.0"),
        "tools.gguf": (None, "1"),
    }
    assert names(found.weights) == {"Q4_K": "added", "F32": "added"}
    assert found.files == ()
    assert found.differs


def test_tensors_keys_and_template_of_a_gguf(tmp_path: Path) -> None:
    old = gguf_bundle(tmp_path / "old", 0)
    new = gguf_bundle(tmp_path / "new", 1, name="two", template=TEMPLATE.replace("<|end|>", "<|end|>\\n"))
    found = compare(folder_side(old.path), folder_side(new.path))
    assert found.tensors is not None
    assert found.tensors.problem is None
    assert names(found.tensors.tensors) == {"nudged": "changed", "gone": "removed", "new": "added"}
    assert (found.tensors.before_count, found.tensors.after_count) == (3, 3)
    assert [(change.name, change.before, change.after) for change in found.tensors.keys] == [
        ("general.name", "one", "two")
    ]
    # A template written in one line is compared tag by tag.
    assert found.template[:2] == (f"--- {old.path}", f"+++ {new.path}")
    assert [line for line in found.template[2:] if line[0] in "+-"] == [
        "-<|end|>{% endfor %}",
        "+<|end|>\\n{% endfor %}",
    ]


def test_weight_files_that_did_not_change_are_not_read(tmp_path: Path) -> None:
    old = gguf_bundle(tmp_path / "old", 0)
    new = gguf_bundle(tmp_path / "new", 0, template="{{ other }}")

    def refuse(wanted: FileEntry) -> Any:
        assert wanted.path == "chat_template.jinja"
        return io.BytesIO(b"x")

    sides = [replace(folder_side(bundle.path), open_file=refuse) for bundle in (old, new)]
    found = compare(*sides)
    assert names(found.files) == {"chat_template.jinja": "changed"}
    assert found.tensors is None


def test_a_weight_file_that_can_not_be_read_is_reported_and_the_rest_compared(bundle: Bundle, tmp_path: Path) -> None:
    found = compare(folder_side(bundle.path), folder_side(gguf_bundle(tmp_path / "new", 0).path))
    assert found.tensors is not None
    assert "not a GGUF file" in (found.tensors.problem or "")
    assert names(found.files)["model.gguf"] == "changed"


def test_a_template_that_is_not_read_whole_is_not_compared(tmp_path: Path) -> None:
    """What comes after the limit would be no difference."""
    old, new = (
        folder_side(gguf_bundle(tmp_path / end, 0, template=f"{TEMPLATE}{{#{' ' * (1 << 20)}#}}{end}").path)
        for end in ("one", "two")
    )
    with pytest.raises(BundleError, match=r"chat_template\.jinja has 1,048,\d+ bytes"):
        compare(old, new)


def test_a_template_that_comes_or_goes(tmp_path: Path) -> None:
    with_template = gguf_bundle(tmp_path / "with", 0, template="a\nb\n")
    without = make_bundle(tmp_path / "without", {"model.gguf": (with_template.path / "model.gguf").read_bytes()})
    gone = compare(folder_side(with_template.path), folder_side(without.path))
    assert gone.template[3:] == ("-a", "-b", "-")
    assert compare(folder_side(without.path), folder_side(with_template.path)).template[3:] == ("+a", "+b", "+")


@pytest.mark.parametrize("text", ["a", "a\nb", "{{ a }}{{ b }}"])
def test_a_line_break_at_a_templates_end_is_a_difference(tmp_path: Path, text: str) -> None:
    sides = [
        folder_side(gguf_bundle(tmp_path / name, 0, template=text + end).path)
        for name, end in (("old", "\n"), ("new", ""))
    ]
    assert [line for line in compare(*sides).template[3:] if line[0] != " "] == ["-"]


def register_two(ledger: Ledger, home: Path) -> None:
    older, newer = make_bundle(home / "older"), make_bundle(home / "newer", {"model.gguf": b"newer"})
    for bundle in (older, newer):
        ledger.store.add_bundle(bundle)
    ledger.register(entry(older, "1.0.0", "iphone-15"))
    ledger.register(entry(older, "1.0.0", "pixel-9"))
    ledger.register(entry(newer, "1.1.0", "iphone-15", kl_mean=0.02))
    ledger.register(entry(newer, "1.1.0", "galaxy-s24"))


@pytest.fixture(scope="module")
def kept(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> KeptRegistry:
    return keep_registry(databases, tmp_path_factory.mktemp("two"), register_two)


@pytest.fixture
def two(databases: Databases, kept: KeptRegistry, tmp_path: Path) -> Ledger:
    """What `register_two` makes."""
    return kept.again(databases, tmp_path / "home")


def sides(ledger: Ledger, release: str) -> list[Side]:
    return [version_side(ledger, row) for row in ledger.versions("phi") if str(row.release) == release]


def test_releases_are_compared_cell_by_cell_with_their_evidence(two: Ledger) -> None:
    found = [compare(*pair) for pair in pairs(sides(two, "1.0.0"), sides(two, "1.1.0"))]
    assert [(one.cell, one.before is None, one.after is None) for one in found] == [
        ("galaxy-s24", True, False),
        ("iphone-15", False, False),
        ("pixel-9", False, True),
    ]
    assert all(one.differs for one in found)
    figures = {figure.name: figure for figure in found[1].figures}
    assert list(figures) == ["kl_mean", "artifact_bytes"]
    assert figures["kl_mean"].difference == pytest.approx(0.01)
    assert figures["kl_mean"].before is not None
    assert figures["kl_mean"].before.value == 0.01


def test_other_evidence_of_one_bundle_is_shown_and_no_difference(two: Ledger, bundle: Bundle) -> None:
    two.register(entry(bundle, "1.2.0", "iphone-15", kl_mean=0.03))
    before, after = (sides(two, release)[0] for release in ("1.0.0", "1.2.0"))
    found = compare(before, after)
    assert not found.differs
    assert [figure.difference for figure in found.figures] == [pytest.approx(0.02), 0]


def test_evidence_that_was_changed_is_reported_and_not_shown(two: Ledger) -> None:
    (row,) = [row for row in two.versions("phi") if row.reference == "phi:1.0.0@pixel-9"]
    client_of(two).log_text(row.run_id, "{}", "evidence.json")
    side = version_side(two, row)
    assert side.evidence is None
    assert "is not what was registered" in (side.problem or "")
    assert compare(side, side).figures == ()


def test_a_bundle_that_no_store_has_is_reported(two: Ledger, kept: KeptRegistry, bundle: Bundle) -> None:
    Path(kept.store.location_of(bundle.digest)).unlink()
    with pytest.raises(StoreError, match=bundle.digest):
        sides(two, "1.0.0")


def test_a_folder_stands_against_one_cell_only(two: Ledger, bundle: Bundle) -> None:
    folder = folder_side(bundle.path)
    many = sides(two, "1.0.0")
    assert pairs([folder], many[:1]) == [(folder, many[0])]
    assert not compare(folder, many[0]).differs
    for first, second in (([folder], many), (many, [folder])):
        with pytest.raises(BundleError, match="the other side has 2 cells") as caught:
            pairs(first, second)
        assert "phi:1.0.0@" in (caught.value.fix or "")


def test_two_cells_that_stand_alone_are_a_pair(two: Ledger) -> None:
    one, other = sides(two, "1.0.0")
    assert pairs([one], [other]) == [(one, other)]
    assert compare(one, other).cell is None


@given(*[st.dictionaries(st.text(max_size=2), st.integers(0, 2), max_size=5)] * 2)
def test_changes_take_one_side_to_the_other(before: dict[str, int], after: dict[str, int]) -> None:
    built = dict(before)
    for change in changes(before, after):
        assert change.kind == (
            "added" if change.name not in before else "removed" if change.name not in after else "changed"
        )
        if change.after is None:
            del built[change.name]
        else:
            built[change.name] = change.after
    assert built == after
    assert changes(before, before) == ()


@pytest.mark.parametrize(
    ("before", "after", "difference"), [(1.0, 3.0, 2.0), (1.0, None, None), (math.inf, math.inf, None), (2.0, 2.0, 0.0)]
)
def test_differences_of_figures(before: float, after: float | None, difference: float | None) -> None:
    figures = [
        None if value is None else Figure(value=value, unit="1", kind="measured", on="x") for value in (before, after)
    ]
    assert FigureChange("kl_mean", *figures).difference == difference


def test_evidence_of_figures_that_one_side_does_not_have(bundle: Bundle) -> None:
    side = folder_side(bundle.path)
    evidence = make_evidence(bundle)
    less = evidence.model_copy(update={"figures": {"kl_mean": evidence.figures["kl_mean"]}})
    found = compare(replace(side, evidence=evidence), replace(side, evidence=less))
    assert names(found.figures) == {"kl_mean": "same", "artifact_bytes": "removed"}


def test_a_changed_minimum_of_a_runtime_is_a_changed_fact(tmp_path: Path) -> None:
    sides = []
    for name, features in (("a", ["gguf/architecture/phi3"]), ("b", ["gguf/architecture/phi3", "gguf/pre/gpt-4o"])):
        made = make_bundle(tmp_path / name)
        sides.append(seal(made.path, made.manifest.model_copy(update={"requires": requires(features)})).path)
    found = {one.name: (one.before, one.after) for one in compare(*map(folder_side, sides)).facts}
    assert found["requires.llama.cpp"] == ("llama.cpp b2717 or later", "llama.cpp b4792 or later")
    assert found["requires.features"][1] == ["gguf/architecture/phi3", "gguf/pre/gpt-4o"]
