"""The released models: parameter counts to the last one, and names that are not among them."""

from __future__ import annotations

import math

import pytest

from targets.errors import UnsupportedModelError
from targets.models import KNOWN_MODELS, known_model


@pytest.mark.parametrize(
    ("name", "parameters", "cache_bytes_per_token"),
    [
        ("phi-3-mini-4k-instruct", 3_821_079_552, 393_216),
        ("phi-3-mini-128k-instruct", 3_821_079_552, 393_216),
        ("phi-3-medium-4k-instruct", 13_960_238_080, 204_800),
        ("phi-3-medium-128k-instruct", 13_960_238_080, 204_800),
        ("phi-3-small-8k-instruct", 7_392_272_384, 131_072),
        ("phi-3-small-128k-instruct", 7_392_272_384, 131_072),
        ("phi-3.5-mini-instruct", 3_821_079_552, 393_216),
        ("phi-4-mini-instruct", 3_836_021_760, 131_072),
        ("phi-4", 14_659_507_200, 204_800),
    ],
)
def test_parameter_counts_match_those_of_microsoft(name: str, parameters: int, cache_bytes_per_token: int) -> None:
    assert known_model(name).parameter_count == parameters
    assert known_model(name).kv_cache_bytes(1) == cache_bytes_per_token


def test_every_known_model_has_an_expected_count() -> None:
    assert len(KNOWN_MODELS) == 9


def test_windows_and_contexts() -> None:
    assert known_model("phi-3-mini-4k-instruct").effective_window == 2047
    assert (known_model("phi-4").context_length, known_model("phi-4").effective_window) == (16_384, None)
    long = [name for name in KNOWN_MODELS if "128k" in name]
    for name in (*long, "phi-3.5-mini-instruct", "phi-4-mini-instruct"):
        model = known_model(name)
        assert (model.context_length, model.effective_window) == (131_072, None)
        assert model.longrope is not None
        original = model.longrope.original_context
        factor = math.sqrt(1 + math.log(131072 / original) / math.log(original))
        assert model.longrope.long_attention_factor == pytest.approx(factor, abs=1e-6)


def test_letter_case_does_not_matter() -> None:
    assert known_model("Phi-3-mini-4k-instruct") is KNOWN_MODELS["phi-3-mini-4k-instruct"]


def test_unknown_model_suggests_the_most_similar_name() -> None:
    with pytest.raises(UnsupportedModelError, match="unknown model 'phi-3-mini-4k-instuct'") as caught:
        known_model("phi-3-mini-4k-instuct")
    assert caught.value.fix.startswith("did you mean 'phi-3-mini-4k-instruct'?")
