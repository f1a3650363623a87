"""Evidence: figures round-trip through a file, and when evidence counts as passed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from targets.errors import MeasurementError
from targets.evidence import (
    ACCURACY_FIGURES,
    FIGURES,
    LESS_IS_BETTER,
    MORE_IS_BETTER,
    NEITHER_IS_BETTER,
    NO_ACCURACY_GATE,
    Evidence,
    Figure,
    wrong_way,
)
from targets.evidence_details import Check, Details
from targets.gates import Gate, judge

kinds: st.SearchStrategy[Literal["measured", "predicted"]] = st.sampled_from(["measured", "predicted"])
figures = st.builds(Figure, value=st.floats(allow_nan=False), unit=st.text(max_size=5), kind=kinds, on=st.text())


def evidence(taken: dict[str, Figure], gates: dict[str, Gate] | None = None) -> Evidence:
    values = {name: figure.value for name, figure in taken.items()}
    return Evidence(
        schema="phipack.evidence/1",
        bundle="sha256:" + "0" * 64,
        checkpoint="sha256:" + "1" * 64,
        recipe="gguf-q8_0",
        text="a text",
        figures=taken,
        gates=judge(values, gates or {}, asked_by="project"),
    )


def measured(value: float) -> Figure:
    return Figure(value=value, unit="nat", kind="measured", on="a host")


def test_each_figure_is_classified_once() -> None:
    groups = (MORE_IS_BETTER, LESS_IS_BETTER, NEITHER_IS_BETTER)
    assert sorted(name for group in groups for name in group) == sorted(FIGURES)


@pytest.mark.parametrize(
    ("figure", "gate", "counts"),
    [
        ("kl_mean", Gate(at_most=0.05), True),
        ("kl_mean", Gate(at_least=0), False),
        ("same_top_share", Gate(at_least=0.9), True),
        ("same_top_share", Gate(at_most=0.9), False),
        ("perplexity_ratio", Gate(at_least=0.5), False),
        ("artifact_bytes", Gate(at_most=1e9), False),
    ],
)
def test_a_gate_that_lets_every_worse_bundle_pass_is_none_on_accuracy(figure: str, gate: Gate, counts: bool) -> None:
    found = evidence({figure: measured(0.7 if figure == "same_top_share" else 9.0)}, {figure: gate})
    passing = found.model_copy(update={"gates": [one.model_copy(update={"passed": True}) for one in found.gates]})
    assert passing.passed == counts
    assert (passing.shortcomings == [NO_ACCURACY_GATE]) != counts


def test_which_bounds_are_on_the_wrong_side() -> None:
    wrong = {
        (name, bound)
        for name in FIGURES
        for bound, gate in (("at_least", Gate(at_least=1)), ("at_most", Gate(at_most=1)))
        if wrong_way(name, gate) is not None
    }
    assert {name for name, _ in wrong} >= ACCURACY_FIGURES | {"task_drop", "behaviour_failed_checks", "loop_share"}
    assert all((name in MORE_IS_BETTER) == (bound == "at_most") for name, bound in wrong)
    assert not [name for name, _ in wrong if name.endswith(("_bytes", "_per_second")) or name in NEITHER_IS_BETTER]
    assert wrong_way("kl_mean", Gate(at_least=0.05)) == (
        "kl_mean is better the lower it is: >= 0.05 lets every worse bundle pass",
        "bound it by at_most (<=)",
    )


@given(st.dictionaries(st.sampled_from(sorted(FIGURES)), figures))
def test_evidence_round_trips_through_json(taken: dict[str, Figure]) -> None:
    before = evidence(taken, {"kl_mean": Gate(at_most=0.05), "kl_max": Gate(at_least=1)})
    text = before.to_json()
    assert Evidence.model_validate_json(text) == before
    assert Evidence.model_validate_json(text).to_json() == text


def test_details_round_trip_and_are_left_out_where_there_are_none() -> None:
    bare = evidence({"kl_mean": measured(0.01)})
    check = Check(group="ids", name="stop id 7 ends generation", passed=True)
    whole = bare.model_copy(update={"details": Details(suite="quick", checks=(check,))})

    assert b"details" not in bare.to_json().encode()
    assert Evidence.parse(bare.to_json().encode(), source="here") == bare
    assert Evidence.parse(whole.to_json().encode(), source="here") == whole


def test_evidence_round_trips_through_a_file(tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    before = evidence({"kl_mean": measured(math.inf)})
    path.write_text(before.to_json(), "utf-8")
    assert Evidence.read(path) == before
    assert json.loads(path.read_text("utf-8"))["schema"] == "phipack.evidence/1"


def test_evidence_passes_if_it_has_an_accuracy_gate_and_no_gate_failed() -> None:
    taken = {"kl_mean": measured(0.01), "kl_max": measured(math.inf)}
    passes, fails = Gate(at_most=0.05), Gate(at_most=100)
    assert not evidence(taken).passed  # no gate at all
    assert evidence(taken, {"kl_mean": passes}).passed
    assert not evidence(taken, {"kl_mean": passes, "kl_max": fails}).passed
    assert not evidence(taken, {"perplexity": Gate(at_least=0)}).passed
    # A gate on size or speed alone says nothing about accuracy.
    sized = evidence(taken | {"artifact_bytes": measured(1.0)}, {"artifact_bytes": Gate(at_most=2)})
    assert not sized.failed_gates
    assert not sized.passed
    assert sized.shortcomings == ["it has no gate on accuracy"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1", b"\xff\xfe", b'{"schema": "phipack.evidence/2"}'])
def test_invalid_evidence_file_is_refused_with_a_fix(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "evidence.json"
    path.write_bytes(content)
    with pytest.raises(MeasurementError, match="not an evidence file") as caught:
        Evidence.read(path)
    assert caught.value.fix == "write one with phipack validate"


def test_missing_evidence_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"none\.json: can.t be read"):
        Evidence.read(tmp_path / "none.json")


def test_every_figure_has_a_unit_and_a_meaning() -> None:
    for name, (unit, what) in FIGURES.items():
        assert name == name.lower()
        assert unit
        assert what


def test_the_order_of_figures_changes_no_digest() -> None:
    """Measured figures come in the order of the work, recorded ones sorted: the same evidence, so the same text."""
    figures = {
        name: Figure(value=value, unit="nat", kind="measured", on="text")
        for name, value in (("kl_p99", 0.1), ("kl_mean", 0.02), ("kl_max", math.inf))
    }
    made = [
        Evidence(
            schema="phipack.evidence/1",
            bundle="sha256:b",
            checkpoint="sha256:c",
            recipe="gguf-f16",
            text="t",
            figures={name: figures[name] for name in names},
        )
        for names in (list(figures), sorted(figures))
    ]
    assert made[0].to_json() == made[1].to_json()
    assert Evidence.parse(made[0].to_json().encode(), source="x").to_json() == made[0].to_json()


@pytest.mark.parametrize("written", [b"NaN", b'"NaN"', b"1e999", b"null", b"1" * 5000])
def test_what_is_no_figure_is_refused_where_it_enters(written: bytes) -> None:
    raw = evidence({"kl_mean": measured(7.25)}).to_json().encode()
    with pytest.raises(MeasurementError, match=r"not an evidence file: .*value"):
        Evidence.parse(raw.replace(b"7.25", written), source="it")


def test_nan_is_refused_by_the_api() -> None:
    with pytest.raises(ValidationError, match="NaN is no figure"):
        measured(math.nan)


def test_an_infinite_divergence_is_a_figure() -> None:
    """A bundle that gives the right token no chance has one. JSON has no sign for it: it is written as a text."""
    infinite = evidence({"kl_max": measured(math.inf)})
    assert '"value": "Infinity"' in infinite.to_json()
    assert Evidence.parse(infinite.to_json().encode(), source="it") == infinite
