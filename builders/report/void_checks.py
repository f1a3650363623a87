"""Checks that can't fail, which evidence of an older phipack has: a share is never above 1."""

from __future__ import annotations

from targets.evidence_details import Check, Details, NotRun


def without_void(details: Details) -> Details:
    """Return details in which a check whose bound nothing can exceed is one that was not run."""
    void = [one for one in details.checks if _is_void(one)]
    if not void:
        return details
    not_run = tuple(NotRun(group=one.group, name=one.name, reason=_REASON) for one in void)
    checks = tuple(one for one in details.checks if not _is_void(one))
    return details.model_copy(update={"checks": checks, "not_run": (*details.not_run, *not_run)})


_REASON = "so few answers, or so many of float32's are so, that no share would have failed"


def _is_void(check: Check) -> bool:
    return check.passed and check.unit == "share" and check.bound is not None and check.bound >= 1
