"""A matrix as CI systems read it.

GitHub: one line for `fromJSON`. GitHub evaluates `strategy` before it creates a job and refuses an empty matrix there,
so the job needs a condition: `if: needs.plan.outputs.matrix != '{"include":[]}'`.
GitLab: a child pipeline, in YAML's JSON. An empty one is invalid, so there is one job then that does nothing.
"""

from __future__ import annotations

import json
from typing import Any

from phipack.ci.gitlab_template import JOB
from phipack.json_form.jobs import MatrixForm

COMMAND = "phipack release --defer-registration"
NOTHING = "nothing-to-do"


def github_matrix(matrix: MatrixForm) -> str:
    """Return `{"include":[…]}` in one line. `jobs` of an entry: names for `--job`, with spaces in between."""
    include = [
        {
            "name": group.name,
            "machine": group.machine,
            "labels": group.labels,
            "jobs": " ".join(group.last_jobs),
            "cells": group.cells,
            "minutes": max(1, round(group.seconds / 60)),
        }
        for group in matrix.groups
    ]
    return json.dumps({"include": include}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def gitlab_pipeline(matrix: MatrixForm, template: str | None) -> str:
    """Return a child pipeline. `template`: a file of the repository with a job `.phipack`, which all jobs extend."""
    jobs: dict[str, Any] = {} if template is None else {"include": [{"local": template}]}
    extends = {} if template is None else {"extends": JOB}
    for group in matrix.groups:
        tags = {"tags": group.labels} if group.labels else {}
        jobs[group.name] = (
            extends | tags | {"script": [" ".join((COMMAND, *(f"--job {job}" for job in group.last_jobs)))]}
        )
    if not matrix.groups:
        jobs[NOTHING] = extends | {"script": ["echo 'every job of the release is done'"]}
    return json.dumps(jobs, indent=2, ensure_ascii=False, allow_nan=False)


def plain_json(matrix: MatrixForm) -> str:
    """Return the matrix as `phipack matrix --json` has it, without the document around it."""
    return json.dumps(matrix.data(), indent=2, ensure_ascii=False, allow_nan=False)
