"""A KV cache of a type of its own: that what it costs was measured where the cache is long."""

from __future__ import annotations

from collections.abc import Collection

from builders.validation.behaviour.findings import Findings
from builders.validation.behaviour.subject import Subject

_MEASURED = ("full_cache_kl_mean", "full_cache_same_top_share", "full_cache_perplexity_ratio")


def check_cache(subject: Subject, figures: Collection[str], last: int | None) -> Findings:
    """Check that the figures were taken, where the recipe has such a cache.

    `last`: the length of the sequence that fills it; None where none is longer than the evaluation's windows.
    """
    findings = Findings("cache")
    kind = subject.bundle.manifest.recipe.kv_cache
    if not kind:
        return findings
    if last is None:
        reason = "neither context nor text is longer than the evaluation's windows"
        findings.skip(f"a cache in {kind} where it is full", reason)
        return findings
    missing = [name for name in _MEASURED if name not in figures]
    findings.holds(f"a cache in {kind} was measured where it is full", not missing, f"not measured: {missing}")
    return findings
