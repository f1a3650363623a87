"""What a bundle needs of a runtime, what an app offers, and the table between the two."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from targets.errors import PhipackError, ProjectError, TargetError
from targets.fit import fit, require_fit
from targets.models import KNOWN_MODELS
from targets.project import load_project
from targets.recipes import RECIPES
from targets.runtimes import NO_OFFER, Offer, Requires, RuntimeNeed, VersionGap, remedy, shortfalls
from targets.runtimes.expected import expected_features
from targets.runtimes.requirement import covers
from targets.runtimes.table import load_table, requires, strictest
from targets.runtimes.version import RuntimeVersion

NUMBERS = st.lists(st.integers(0, 30), min_size=1, max_size=3)
VERSIONS = st.builds(lambda numbers: ".".join(map(str, numbers)), NUMBERS)


def need(minimum: str, *gaps: tuple[str, str | None, str | None], runtime: str = "onnxruntime") -> RuntimeNeed:
    found = tuple(VersionGap(first=first, fixed_in=fixed_in, os=os) for first, fixed_in, os in gaps)
    return RuntimeNeed(runtime=runtime, minimum=minimum, gaps=found)


def test_versions_are_compared_number_by_number() -> None:
    ordered = ["0.9", "1.2", "1.2.1", "1.10", "1.100.0", "2"]
    assert sorted(ordered, key=lambda text: RuntimeVersion.parse(text).numbers) == ordered
    assert RuntimeVersion.parse("1.20") == RuntimeVersion.parse("1.20.0")
    assert RuntimeVersion.parse("b4792") > RuntimeVersion.parse("b4791")


@pytest.mark.parametrize("text", ["", "1.", "v1", "1.20.0rc1", "1.20-1", "b", "1.2.3.4.5", "1.20 ", "९"])
def test_anything_else_is_no_version(text: str) -> None:
    with pytest.raises(TargetError, match="is not the version of a runtime"):
        RuntimeVersion.parse(text)


@given(one=VERSIONS, other=VERSIONS, version=VERSIONS, first=VERSIONS, fixed_in=VERSIONS)
def test_a_need_includes_another_only_where_it_allows_no_more(
    one: str, other: str, version: str, first: str, fixed_in: str
) -> None:
    stricter, looser = need(one, (first, fixed_in, None)), need(other)
    for left, right in ((stricter, looser), (looser, stricter), (stricter, stricter)):
        if left.includes(right) and left.allows(RuntimeVersion(version), None):
            assert right.allows(RuntimeVersion(version), None)


def test_a_gap_counts_on_its_own_os() -> None:
    asked = need("1.22", ("1.22", "1.23", "Android"))
    assert asked.allows(RuntimeVersion("1.22.1"), "iOS")
    assert asked.allows(RuntimeVersion("1.22.1"), None)
    assert not asked.allows(RuntimeVersion("1.22.1"), "android")
    assert asked.allows(RuntimeVersion("1.23"), "Android")
    assert str(asked) == "onnxruntime 1.22 or later, but not 1.22 up to, and without, 1.23 on Android"
    assert not need("1", ("1.5", None, None)).allows(RuntimeVersion("9"), None)


def test_an_app_that_lists_runtimes_lists_all_of_them() -> None:
    asked = (need("1.22"), need("0.6", runtime="onnxruntime-genai"))
    assert shortfalls("onnx", asked, NO_OFFER, None) == ()
    assert shortfalls("onnx", asked, Offer.of({"onnxruntime": "1.22"}), None) == ()  # it drives the graph itself
    both = shortfalls("onnx", asked, Offer.of({"onnxruntime": "1.20", "onnxruntime-genai": "0.5.2"}), None)
    assert [one.text for one in both] == [
        "it needs onnxruntime 1.22 or later, and the app has 1.20",
        "it needs onnxruntime-genai 0.6 or later, and the app has 0.5.2",
    ]
    assert remedy("onnx", both, None) == "ship onnxruntime 1.22 or later and onnxruntime-genai 0.6 or later in the app"
    other = shortfalls("gguf", (), Offer.of({"onnxruntime": "1.22"}), None)
    assert [one.text for one in other] == ["the app has no runtime for gguf: it has onnxruntime 1.22"]


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        (["onnxruntime"], "has no version"),
        (["onnxruntim=1.2"], "unknown runtime 'onnxruntim'"),
        (["onnxruntime=new"], "is not the version of a runtime"),
        (["onnxruntime=1.2", "onnxruntime=1.3"], "is given twice"),
    ],
)
def test_a_malformed_list_is_refused(pairs: list[str], problem: str) -> None:
    with pytest.raises(TargetError, match=problem) as caught:
        Offer.parse(pairs)
    assert caught.value.fix


def test_every_row_has_a_source_and_every_gap_lies_past_its_minimum() -> None:
    for row in load_table().rows:
        assert re.search(r"#\d+|tried: |history of |tags of |coremltools|since when was not looked up", row.source), row
        assert Requires(features=(row.feature,), runtimes=()).features  # the form that a manifest takes
        for gap in row.gaps:
            assert RuntimeVersion(gap.first) >= RuntimeVersion(row.minimum), row
            assert gap.fixed_in is None or RuntimeVersion(gap.fixed_in) > RuntimeVersion(gap.first), row


def test_every_feature_that_a_recipe_will_use_has_a_row() -> None:
    table = load_table()
    for architecture in KNOWN_MODELS.values():
        for recipe in RECIPES.values():
            try:
                features = expected_features(architecture, recipe, architecture.context_length)
            except PhipackError:  # the recipe can't store the model
                continue
            assert [one for one in features if table.row(one) is None] == []


def test_the_strictest_row_decides_and_an_unknown_feature_needs_what_is_tested() -> None:
    found = requires(["gguf/pre/gpt-4o", "gguf/architecture/phi3"])
    assert [str(one) for one in found.runtimes] == ["llama.cpp b4792 or later"]
    assert found.features == ("gguf/architecture/phi3", "gguf/pre/gpt-4o")
    unknown = requires(["onnx/operator/New", "onnx/opset/21"])
    assert unknown.runtimes[0].minimum == load_table().tested["onnxruntime"]


def test_a_later_table_makes_a_manifest_s_entry_stricter_never_looser() -> None:
    older = Requires(features=("gguf/pre/gpt-4o",), runtimes=(need("b9", runtime="llama.cpp"),))
    newer = Requires(features=("gguf/pre/gpt-4o",), runtimes=(need("b999999", runtime="llama.cpp"),))
    assert [one.minimum for one in strictest(older)] == ["b4792"]
    assert [one.minimum for one in strictest(newer)] == ["b999999"]
    assert covers(strictest(older), older.runtimes)


@pytest.mark.parametrize(
    "content",
    [
        {"features": ["gguf/version/3", "gguf/pre/gpt-2"], "runtimes": []},
        {"features": ["gguf/pre/gpt-2"] * 2, "runtimes": []},
        {"features": ["GGUF"], "runtimes": []},
        {"features": [], "runtimes": [{"runtime": "llama.cpp", "minimum": "newest"}]},
        {"features": [], "runtimes": [], "more": 1},
    ],
)
def test_an_entry_that_is_not_canonical_is_refused(content: Any) -> None:
    with pytest.raises(ValidationError):
        Requires.model_validate(content)


MINI, PHI_4_MINI = KNOWN_MODELS["phi-3-mini-4k-instruct"], KNOWN_MODELS["phi-4-mini-instruct"]


def test_fit_takes_the_runtimes_that_a_target_s_apps_ship() -> None:
    from targets.devices import target_named

    device = target_named("galaxy-s25")
    gguf, onnx = RECIPES["gguf-q4_k_m"], RECIPES["onnx-int4"]
    assert fit(MINI, gguf, device).fits
    old = device.model_copy(update={"runtimes": {"llama.cpp": "b4000"}})
    assert fit(MINI, gguf, old).fits
    assert fit(PHI_4_MINI, gguf, old).reason == "it needs llama.cpp b4792 or later, and the app has b4000"
    assert fit(MINI, onnx, old).reason == "the app has no runtime for onnx: it has llama.cpp b4000"
    with pytest.raises(PhipackError, match="b4792"):
        require_fit(PHI_4_MINI, gguf, old)
    android = device.model_copy(update={"runtimes": {"onnxruntime": "1.22.0"}})
    assert "onnxruntime 1.24.1 or later" in fit(MINI, onnx, android).reason  # its window


def test_a_cell_s_runtimes_replace_those_of_its_target(tmp_path: Any) -> None:
    text = 'model = "phi"\nversion = "1.0.0"\ncheckpoint = "c"\n[[cells]]\ntarget = "pixel-9"\nrecipe = "onnx-int4"\n'
    path = tmp_path / "phipack.toml"
    path.write_text(text + 'runtimes = { onnxruntime = "1.20" }\n')
    cell = load_project(path).cells[0]
    assert str(cell.target.offer) == "onnxruntime 1.20"
    assert cell.target.name == "pixel-9"
    path.write_text(text + 'runtimes = { onnxruntme = "1.20" }\n')
    with pytest.raises(ProjectError, match=r"phipack\.toml:7: cells\.0\.runtimes\.onnxruntme: unknown runtime"):
        load_project(path)
