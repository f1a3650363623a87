"""What a command works on: the project, its registry and store, and where output goes. The common options fill it.

What no option says comes from the environment, then from the project file, then from `.phipack` in the project's
folder. The project file is read when something in it is first needed, strictly: a wrong one stops no command that
needs nothing of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack.output import Output
from targets.errors import ProjectError
from targets.secrets import shown

if TYPE_CHECKING:
    from targets.project import Project

PROJECT = Path("phipack.toml")
HOME = ".phipack"


@dataclass
class State:
    """What the common options decide.

    `arguments`: the command line.
    `named_project`, `named_tracking_uri`, `named_store`: what the options say, None where they are not given.
    """

    output: Output = field(default_factory=Output)
    arguments: tuple[str, ...] = ()
    named_project: Path | None = None
    named_tracking_uri: str | None = None
    named_store: str | None = None

    @property
    def project_file(self) -> Path | None:
        """The project file: `--project`, else the nearest `phipack.toml` (`find_project`), else None.

        Raises `ProjectError` where another user has put it into a folder that everybody may write.
        """
        if self.named_project is not None:
            return self.named_project
        found = find_project()
        return None if found is None else _not_planted(found)

    @property
    def home(self) -> Path:
        """`.phipack` in the project's folder; in the current folder where there is no project file.

        Raises `ProjectError` as `project_file` does.
        """
        project = self.project_file
        return _not_planted(Path(HOME) if project is None else project.parent / HOME)

    @cached_property
    def project(self) -> Project | None:
        """The project file's content, None where there is no file. Raises `ProjectError` where it is wrong."""
        from targets.project import load_project

        path = self.project_file
        return None if path is None else load_project(path)

    @property
    def required_project(self) -> Project:
        """The project file's content. Raises `ProjectError` where there is no file, or it is wrong."""
        if self.project is None:
            raise ProjectError(
                f"no {PROJECT} in this folder or above it",
                fix="run phipack where it is, or name it with --project FILE",
            )
        return self.project

    @cached_property
    def tracking_uri(self) -> str:
        """MLflow: the option, `MLFLOW_TRACKING_URI`, the project file, else SQLite in `home`. Raises `ProjectError`."""
        from registry.ledger.tracking import tracking_uri

        given = self.named_tracking_uri
        if given is None:
            given = os.environ.get("MLFLOW_TRACKING_URI") or None
        if given is None and self.project is not None:
            given = self.project.tracking_uri
        uri = tracking_uri(given, self.home)
        self._registry = shown(uri)
        self.output.secret_addresses.append(uri)
        self.output.detail(f"registry: {self._registry}")
        return uri

    @cached_property
    def store(self) -> str:
        """The store: the option, `PHIPACK_STORE`, the project file, else `home`/store. Raises `ProjectError`."""
        given = self.named_store
        if given is None:
            given = os.environ.get("PHIPACK_STORE") or None
        if given is None and self.project is not None:
            given = self.project.store
        place = str(self.home / "store") if given is None else given
        self.output.detail(f"store: {shown(place)}")
        return place

    @property
    def registry(self) -> str | None:
        """The tracking URI that the command has asked for, without a password; None where it has not."""
        return self._registry

    _registry: str | None = field(default=None, init=False)


pass_state = click.make_pass_decorator(State)


def _not_planted(path: Path) -> Path:
    from registry.files.owned import require_not_planted
    from registry.files.staging import disk_errors

    with disk_errors(path, ProjectError):
        require_not_planted(path)
    return path


def find_project() -> Path | None:
    """Find `phipack.toml`: in the current folder, else in the nearest folder above it.

    The search ends at the folder that holds `.git`, as a file above a repository is not the repository's own. What has
    the name counts, readable or not: passed over, a broken link would mean another registry.
    """
    if os.path.lexists(PROJECT):
        return PROJECT
    folder = Path.cwd()
    for parent in (folder, *folder.parents):
        if os.path.lexists(parent / PROJECT):
            return parent / PROJECT
        if (parent / ".git").exists():
            return None
    return None
