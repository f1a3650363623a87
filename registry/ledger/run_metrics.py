"""Evidence as MLflow's metrics, for its charts and its comparison of runs: named with units, four digits. Pure.

    kl_mean_nat, same_top_share, decode_tokens_per_second, artifact_bytes, …   the figures
    kl_by_position_nat                       a curve: the step is the last position
    text/english/kl_nat, …/perplexity, …/reference_perplexity, …/perplexity_ratio  by text
    kind/digits/kl_nat, …/perplexity, …/reference_perplexity                       by kind of token
    task/MMLU/accuracy_share, …/drop_points  by task
    safety/NAME/refusals_lost, …/same_tokens_share
    checks/failed, checks/made

The exact values are in evidence.json, which alone is read back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from targets.evidence import Evidence
from targets.evidence_details import Details, Divergence

_REFUSED = re.compile(r"[^\w.\- :]")  # in a part of a metric's name: mlflow.utils.validation
_DIGITS = 4


@dataclass(frozen=True)
class RunMetric:
    """One value of a metric."""

    name: str
    value: float
    step: int = 0


def run_metrics(evidence: Evidence) -> tuple[RunMetric, ...]:
    """Return the metrics of a bundle's evidence."""
    figures = evidence.figures.items()
    found = [RunMetric(_with_unit(name, one.unit), _rounded(one.value, one.unit)) for name, one in figures]
    return (*found, *(() if evidence.details is None else _of_details(evidence.details)))


def _of_details(details: Details) -> Iterator[RunMetric]:
    for position in sorted(details.positions, key=lambda one: one.last):
        yield RunMetric("kl_by_position_nat", _rounded(position.kl_mean), position.last)
    for text in details.texts:
        yield from _divergence(f"text/{_part(text.text)}", text)
        yield RunMetric(f"text/{_part(text.text)}/perplexity_ratio", _rounded(text.perplexity_ratio))
    for kind in details.classes:
        yield from _divergence(f"kind/{_part(kind.kind)}", kind)
    for task in details.tasks:
        yield RunMetric(f"task/{_part(task.task)}/accuracy_share", _rounded(task.accuracy))
        drop = 100 * (task.reference_accuracy - task.accuracy)
        yield RunMetric(f"task/{_part(task.task)}/drop_points", _rounded(drop))
    for one in details.safety:
        yield RunMetric(f"safety/{_part(one.prompts)}/refusals_lost", float(one.refusals_lost))
        yield RunMetric(f"safety/{_part(one.prompts)}/same_tokens_share", _rounded(one.same_tokens_share))
    if details.checks:
        yield RunMetric("checks/failed", float(sum(not check.passed for check in details.checks)))
        yield RunMetric("checks/made", float(len(details.checks)))


def _divergence(prefix: str, found: Divergence) -> Iterator[RunMetric]:
    yield RunMetric(f"{prefix}/kl_nat", _rounded(found.kl_mean))
    yield RunMetric(f"{prefix}/same_top_share", _rounded(found.same_top_share))
    if found.prediction is not None:
        yield RunMetric(f"{prefix}/perplexity", _rounded(found.prediction.perplexity))
        yield RunMetric(f"{prefix}/reference_perplexity", _rounded(found.prediction.reference_perplexity))


def _with_unit(name: str, unit: str) -> str:
    """Return a figure's name with its unit, which most names end with."""
    return f"{name}_nat" if unit == "nat" else name


def _part(text: str) -> str:
    """Return a text as a part of a metric's name, which MLflow takes."""
    return _REFUSED.sub("_", text).strip(". ")[:60] or "_"


def _rounded(value: float, unit: str = "") -> float:
    return value if unit == "B" else float(f"{value:.{_DIGITS}g}")
