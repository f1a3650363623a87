"""Where a registry is: its MLflow, its store, its folder; and the connections to them, made when first used."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from phipack.api.arguments import AnyPath, as_keys, as_path, as_project, as_store
from registry.files.owned import require_not_planted
from registry.files.staging import disk_errors
from registry.ledger.tracking import tracking_uri as chosen_tracking_uri
from targets.errors import ProjectError
from targets.progress import Progress, silent
from targets.project import Project, Roles

if TYPE_CHECKING:
    from registry.catalog.signing import KeyFolder
    from registry.ledger.ledger import Ledger
    from registry.ledger.reader import Reader
    from registry.store.protocol import Store

HOME = Path(".phipack")
_Given = TypeVar("_Given")
_Default = TypeVar("_Default")


class RegistryConnection:
    """What `Registry` is made from.

    Attributes:
        tracking_uri: MLflow's URI.
        home: folder of what has no other place: the default database and store, keys, the build cache.
        project: the project file that it was made from, whose lists say who may move a channel.
        user: who promotes; `USER@HOST` by default.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        store: AnyPath | Store | None = None,
        *,
        home: AnyPath = HOME,
        project: AnyPath | Project | None = None,
        user: str | None = None,
        on_progress: Progress = silent,
    ) -> None:
        """Name the registry.

        Args:
            tracking_uri: else `MLFLOW_TRACKING_URI`, else a SQLite database in `home`.
            store: a folder or `s3://BUCKET/PREFIX`; else `PHIPACK_STORE`, else a folder in `home`.
            home: see above.
            project: whose lists of promoters hold. `from_project` takes the registry's address from it as well.
            user: see above.
            on_progress: called with notices, such as whose lock a change waits for, and by methods that get no other.

        Raises:
            ProjectError: another user has put `home` into a folder that everybody may write, such as /tmp.
        """
        self.home = as_path(home)
        with disk_errors(self.home, ProjectError):
            require_not_planted(self.home)
        self.tracking_uri = chosen_tracking_uri(tracking_uri, self.home)
        self.project = None if project is None else as_project(project)
        self.user = user
        self._on_progress = on_progress
        self._store: AnyPath | Store = _chosen(store, "PHIPACK_STORE", self.home / "store")

    @classmethod
    def from_project(
        cls,
        project: AnyPath | Project = "phipack.toml",
        *,
        tracking_uri: str | None = None,
        store: AnyPath | Store | None = None,
        user: str | None = None,
        on_progress: Progress = silent,
    ) -> Self:
        """Name the registry of a project file's `[registry]`; its home is `.phipack` in the file's folder.

        An argument, and then the environment (`MLFLOW_TRACKING_URI`, `PHIPACK_STORE`), goes before what the file says.

        Raises:
            ProjectError: the file is missing or wrong.
        """
        plan = as_project(project)
        return cls(
            _chosen(tracking_uri, "MLFLOW_TRACKING_URI", plan.tracking_uri),
            _chosen(store, "PHIPACK_STORE", plan.store),
            home=plan.path.parent / HOME,
            project=plan,
            user=user,
            on_progress=on_progress,
        )

    @cached_property
    def store(self) -> Store:
        """The store."""
        return as_store(self._store, self._on_progress)

    @cached_property
    def _ledger(self) -> Ledger:
        from registry.ledger.ledger import open_ledger

        return open_ledger(self.tracking_uri, self.store, self.home, on_progress=self._on_progress)

    def _reader(self) -> Reader:
        """The fast road to a SQLite database, which may come to be at any time; else the ledger's connection."""
        from registry.ledger.ledger import Ledger
        from registry.ledger.reader import open_reader

        found = open_reader(self.tracking_uri, self.store, self.home)
        return self._ledger if isinstance(found, Ledger) else found

    def _roles(self, model: str) -> Roles | None:
        return self.project.roles if self.project is not None and self.project.model == model else None

    def _catalog(self, to: AnyPath | Store | None) -> Store:
        return self.store if to is None else as_store(to, self._on_progress)

    def _keys(self, keys: AnyPath | KeyFolder | None) -> KeyFolder:
        return as_keys(self.home / "keys" if keys is None else keys)


def _chosen(given: _Given | None, variable: str, default: _Default) -> _Given | str | _Default:
    """Return what is given, else what the environment says, else the default. An empty text counts as given."""
    return given if given is not None else os.environ.get(variable) or default
