"""Published scores: a value for each model, in percent."""

from __future__ import annotations

from targets.published import MODELS, PUBLISHED


def test_each_benchmark_has_a_score_of_each_model() -> None:
    for scores in PUBLISHED.values():
        assert len(scores) == len(MODELS)
        assert all(0 < score < 100 for score in scores)
