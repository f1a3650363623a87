"""A template of GitLab's jobs, looked at before a child pipeline includes it.

GitLab looks for it from the repository's root, in the commit, and a child pipeline that includes what is not there, or
extends a job that is not in it, fails when it is created: long after the job that has planned it has succeeded.
Source: docs.gitlab.com/ci/yaml, `include:local` and `extends`.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

from targets.bounded_file import TooLargeError, read_at_most
from targets.errors import ProjectError, SetupError
from targets.installation import install_command

JOB = ".phipack"
_BYTES_LIMIT = 1 << 20
_SUFFIXES = (".yml", ".yaml")
_OF_GITHUB, _OF_BUILDKITE = {"on", "jobs"}, "steps"


def check_template(template: str) -> None:
    """Check that a template is a file of this repository with a job `.phipack`, which a child pipeline can extend.

    Where it includes other files, the job may be in them, and they are not read.

    Raises:
        ProjectError: it is not there, is no YAML, has no such job, or is another CI system's.
        SetupError: PyYAML is not installed.
    """
    path = _file_of(template, _repository())
    try:
        content = read_at_most(path, _BYTES_LIMIT)
    except TooLargeError as error:
        raise _refused(template, f"more than {_BYTES_LIMIT:,} bytes of YAML") from error
    except OSError as error:
        raise _refused(template, f"it can't be read: {error.strerror}") from error
    jobs = _top_level(template, content)
    if JOB in jobs:
        if jobs[JOB].id != "mapping":
            raise _refused(template, f"{JOB} is no job, as it is no mapping")
    elif "include" not in jobs:
        raise _refused(template, _why_none(jobs))


def _repository() -> Path:
    """Return the repository's root: what GitLab names, else the nearest folder with `.git`, else the current one."""
    here = Path.cwd()
    if given := os.environ.get("CI_PROJECT_DIR"):
        return Path(given)
    return next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)


def _file_of(template: str, root: Path) -> Path:
    name = template.lstrip("/")
    if not name.endswith(_SUFFIXES):
        raise _refused(template, f"GitLab includes files called {' or '.join(_SUFFIXES)} alone")
    if ".." in PurePosixPath(name).parts:
        raise _refused(template, "GitLab includes files of the repository by their paths from its root, without ..")
    path = root / name
    if not path.is_file():
        meant = Path(template)
        if meant.is_file() and meant.resolve().is_relative_to(root.resolve()):
            there = meant.resolve().relative_to(root.resolve())
            raise ProjectError(
                f"--template {template}: no such file in {root}, from where GitLab looks", fix=f"--template {there}"
            )
        raise _refused(template, f"no such file in {root}")
    return path


def _top_level(template: str, content: bytes) -> dict[str, Any]:
    """Return the nodes of the last document by their keys: of tags such as `!reference` nothing is made."""
    try:
        import yaml
    except ImportError as error:
        raise SetupError(f"{template}: YAML can't be read without PyYAML", fix=install_command("build")) from error
    try:
        documents = list(yaml.compose_all(content.decode("utf-8-sig"), Loader=yaml.SafeLoader))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise _refused(template, f"it is no YAML: {reason or 'nested too deeply'}") from error
    if not documents or documents[-1] is None or documents[-1].id != "mapping":
        raise _refused(template, "it has no jobs")
    return {str(key.value): value for key, value in documents[-1].value if key.id == "scalar"}


def _why_none(jobs: dict[str, Any]) -> str:
    if jobs.keys() >= _OF_GITHUB:
        return f"it is a workflow of GitHub, and has no job {JOB}"
    if _OF_BUILDKITE in jobs:
        return f"it is a pipeline of Buildkite, and has no job {JOB}"
    return f"it has no job {JOB}, and begins with {', '.join(list(jobs)[:5]) or 'nothing'}"


def _refused(template: str, why: str) -> ProjectError:
    return ProjectError(
        f"--template {template}: {why}",
        fix=f"name a file of the repository with a job {JOB}, as examples/ci/phipack.gitlab-ci.yml is one",
    )
