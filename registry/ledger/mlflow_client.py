"""The one adapter to MLflow: every call that the ledger makes, through a quiet client that fails soon.

Its rows are MLflow's own (registered models, model versions, experiments, runs); what they mean is `ledger.py`'s. A
registry that does not exist yet is created by the first call that writes; to one that reads it is empty.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from registry.files.staging import disk_errors
from registry.files.temporary import temporary_folder
from registry.ledger.mlflow_connection import connect, has_tables, load, unknown_mlflow
from registry.ledger.mlflow_errors import MlflowError, foreign_errors
from registry.ledger.mlflow_rows import search_versions
from registry.ledger.registry_lock import registry_lock, registry_wait
from registry.ledger.run_metrics import RunMetric
from registry.ledger.tracking import sqlite_path
from targets.errors import RegistryError
from targets.progress import Notice, Progress, silent
from targets.secrets import shown
from targets.this_user import user_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

_CONNECTIONS = 8  # to a server
_PAGE = 1000
# What kind of pages MLflow's UI opens an experiment with: its server/js, ExperimentKind. The pages of 3.17 look at
# a setting of the browser instead (docs/report.md).
_EXPERIMENT_KIND_TAG = "mlflow.experimentKind"
_VERSIONS_PAGE = 10_000  # pages are cut from an order that every change of a version changes
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _wrapped(call: Callable[Concatenate[Mlflow, _P], _T]) -> Callable[Concatenate[Mlflow, _P], _T]:
    """Let a method raise `RegistryError` alone."""

    @functools.wraps(call)
    def with_our_errors(self: Mlflow, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with foreign_errors(self.uri):
            return call(self, *args, **kwargs)

    return with_our_errors


class Mlflow:
    """MLflow at `uri`; the connection is made when first needed.

    Every method raises `MlflowError` where MLflow refuses, `RegistryUnreachableError` where it does not answer, and a
    plain `RegistryError` where a disk is full or a lock is held for too long. `on_progress` receives whom it waits for.
    """

    def __init__(self, uri: str, on_progress: Progress = silent) -> None:
        self.uri, self._on_progress = uri, on_progress

    @cached_property
    def _client(self) -> MlflowClient:
        load(self.uri)
        waiting = registry_wait(user_name(), self._on_progress)
        with registry_lock(self.uri, waiting, migrating=True):  # two processes must not migrate one new database
            is_new = (path := sqlite_path(self.uri)) is not None and not path.exists()
            client = connect(self.uri)
        if is_new:
            self._on_progress(Notice(f"a new registry: {shown(self.uri)}"))
        return client

    @_wrapped
    def connect(self) -> None:
        """Connect, and create the registry where there is none."""
        _ = self._client

    @_wrapped
    def exists(self) -> bool:
        """Return False where the database was never made; asks a server nothing."""
        if "_client" in self.__dict__ or self.uri.startswith("http"):
            return True
        path = sqlite_path(self.uri)
        return (path is None or path.exists()) and has_tables(self.uri)

    @property
    def connections(self) -> int:
        """How many requests are made at a time: one of a database, which would make them wait for each other."""
        return _CONNECTIONS if self.uri.startswith("http") else 1

    def at_once(self, calls: Sequence[Callable[[], _T]]) -> list[_T]:
        """Return what calls of these methods return: a server is asked several at a time, a database one by one.

        Raises the error of the first call that failed, after all that were begun have ended; the rest are not made.
        """
        if min(len(calls), self.connections) < 2:
            return [call() for call in calls]
        self.connect()  # which imports MLflow, in one thread
        with ThreadPoolExecutor(min(len(calls), self.connections)) as pool:
            running = [pool.submit(call) for call in calls]
            try:
                return [one.result() for one in running]
            finally:
                for one in running:
                    one.cancel()

    # --- registered models and their versions

    @_wrapped
    def registered_models(self, wanted: str) -> list[Any]:
        """Return the registered models that a filter lets through."""
        return self._all(lambda client, token: client.search_registered_models(wanted, _PAGE, page_token=token))

    @_wrapped
    def registered_model(self, name: str) -> Any:
        """Return a registered model by its name. `MlflowError` where there is none, or this account may not see it."""
        return self._client.get_registered_model(name)

    @_wrapped
    def create_registered_model(self, name: str, tags: Mapping[str, str]) -> None:
        """Create a registered model."""
        self._client.create_registered_model(name, tags=dict(tags))

    @_wrapped
    def versions(self, wanted: str) -> list[Any]:
        """Return the model versions that a filter lets through."""
        if self.uri.startswith("http"):
            self.connect()
            return list(search_versions(self.uri, wanted, _VERSIONS_PAGE))
        return self._all(lambda client, token: client.search_model_versions(wanted, _VERSIONS_PAGE, page_token=token))

    @_wrapped
    def version_by_alias(self, name: str, alias: str) -> Any | None:
        """Return the version that an alias of a registered model points at; None where it points at none."""
        if not self.exists():
            return None
        client = self._client  # which imports MLflow, whole and in one thread
        from mlflow.exceptions import MlflowException

        try:
            return client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None

    @_wrapped
    def version(self, name: str, number: int) -> Any:
        """Return a version by its number."""
        return self._client.get_model_version(name, str(number))

    @_wrapped
    def create_version(self, name: str, source: str, run_id: str, tags: Mapping[str, str], description: str) -> int:
        """Add a version, tags and description included; return its number."""
        row = self._client.create_model_version(
            name, source=source, run_id=run_id, tags=dict(tags), description=description or None
        )
        return int(row.version)

    @_wrapped
    def describe_version(self, name: str, number: int, description: str) -> None:
        """Set the description of a version."""
        self._client.update_model_version(name, str(number), description)

    @_wrapped
    def delete_version(self, name: str, number: int) -> None:
        """Delete a version."""
        self._client.delete_model_version(name, str(number))

    @_wrapped
    def set_version_tag(self, name: str, number: int, tag: str, value: str) -> None:
        """Set a tag of a version."""
        self._client.set_model_version_tag(name, str(number), tag, value)

    @_wrapped
    def set_alias(self, name: str, alias: str, number: int | None) -> None:
        """Point an alias at a version, or delete it. `name` must be a row's: it is not checked again.

        `MlflowClient` itself first asks whether it is a prompt's name, which a search for models never returns.
        """
        whole: Any = self._client
        try:
            client = whole._get_registry_client()  # noqa: SLF001 - one request instead of two
        except AttributeError as error:
            raise unknown_mlflow(error) from error
        if number is None:
            client.delete_registered_model_alias(name, alias)
        else:
            client.set_registered_model_alias(name, alias, str(number))

    # --- experiments

    @_wrapped
    def experiment(self, name: str) -> Any | None:
        """Return an experiment by its name, deleted ones included; None where there is none."""
        return self._client.get_experiment_by_name(name) if self.exists() else None

    @_wrapped
    def experiment_of(self, run_id: str) -> Any:
        """Return the experiment that a run is in."""
        return self._client.get_experiment(self._client.get_run(run_id).info.experiment_id)

    @_wrapped
    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        """Create an experiment and return its ID; `artifact_location`: of its runs' files, None for MLflow's own."""
        tags = {_EXPERIMENT_KIND_TAG: "custom_model_development"}
        return str(self._client.create_experiment(name, artifact_location=artifact_location, tags=tags))

    @_wrapped
    def experiment_now(self, experiment_id: str) -> Any:
        """Return an experiment, its tags included, as it is now."""
        return self._client.get_experiment(experiment_id)

    @_wrapped
    def set_experiment_tag(self, experiment_id: str, tag: str, value: str) -> None:
        """Set a tag of an experiment."""
        self._client.set_experiment_tag(experiment_id, tag, value)

    def delete_experiment_tag(self, experiment_id: str, tag: str) -> None:
        """Delete a tag of an experiment, if it is there."""
        try:
            self._delete_experiment_tag(experiment_id, tag)
        except MlflowError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise

    @_wrapped
    def _delete_experiment_tag(self, experiment_id: str, tag: str) -> None:
        self._client.delete_experiment_tag(experiment_id, tag)

    # --- runs

    @_wrapped
    def runs(self, experiment_id: str, wanted: str, order_by: str | None = None) -> list[Any]:
        """Return the runs of an experiment that a filter lets through."""
        order = None if order_by is None else [order_by]
        ask = functools.partial(self._client.search_runs, [experiment_id], wanted, max_results=_PAGE, order_by=order)
        return list(_pages(lambda token: ask(page_token=token)))

    @_wrapped
    def create_run(self, experiment_id: str, name: str, tags: Mapping[str, str], start_ms: int | None = None) -> str:
        """Begin a run and return its ID."""
        run = self._client.create_run(experiment_id, start_ms, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    @_wrapped
    def log(
        self, run_id: str, metrics: Sequence[RunMetric], params: Mapping[str, str], files: Mapping[str, bytes]
    ) -> None:
        """Add metrics, parameters and files, by name, to a run."""
        client = self._client
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        client.log_batch(
            run_id,
            metrics=[Metric(one.name, one.value, now, one.step) for one in metrics],
            params=[Param(name, value) for name, value in params.items()],
        )
        with temporary_folder("phipack-run", kind=RegistryError) as folder:
            for name, content in files.items():
                place = folder / name
                with disk_errors(place, RegistryError):
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(content)
            client.log_artifacts(run_id, str(folder))

    @_wrapped
    def end_run(self, run_id: str, status: str) -> None:
        """End a run: FINISHED or FAILED."""
        self._client.set_terminated(run_id, status)

    @_wrapped
    def read_file(self, run_id: str, name: str, location: str | None = None) -> bytes:
        """Return one of a run's files. `location`: the folder of the run's files, where it is known."""
        location = location or self._client.get_run(run_id).info.artifact_uri
        # MLflow's own way from a run's ID to its file makes three more requests.
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with temporary_folder("phipack-run", kind=RegistryError) as folder:
            files: Any = get_artifact_repository(location, tracking_uri=self.uri)
            return Path(files.download_artifacts(name, str(folder))).read_bytes()

    def _all(self, ask: Callable[[MlflowClient, str | None], Any]) -> list[Any]:
        """Return all rows of a paged query; none where the registry does not exist."""
        return list(_pages(lambda token: ask(self._client, token))) if self.exists() else []


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    token = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return
