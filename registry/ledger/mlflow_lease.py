"""The lease's place in MLflow: tags of the experiment MODEL, `phipack.lease.NAME`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.ledger.lease import Check, Timing, certain, held
from registry.ledger.lock_wait import Told
from registry.ledger.mlflow_errors import foreign_errors
from registry.ledger.versions import TAG_PREFIX

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PREFIX = TAG_PREFIX + "lease."


@dataclass(frozen=True)
class ExperimentTags:
    """A `registry.ledger.lease.Place`. Everything raises `RegistryError` where MLflow refuses or can't be reached."""

    client: MlflowClient
    uri: str
    experiment_id: str

    def read(self) -> Mapping[str, str]:
        """All names with their values."""
        with foreign_errors(self.uri):
            tags = self.client.get_experiment(self.experiment_id).tags
        return {name.removeprefix(_PREFIX): value for name, value in tags.items() if name.startswith(_PREFIX)}

    def write(self, name: str, value: str) -> None:
        """Set a tag."""
        with foreign_errors(self.uri):
            self.client.set_experiment_tag(self.experiment_id, _PREFIX + name, value)

    def remove(self, name: str) -> None:
        """Delete a tag, if it is there."""
        from mlflow.exceptions import MlflowException

        with foreign_errors(self.uri):
            try:
                self.client.delete_experiment_tag(self.experiment_id, _PREFIX + name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise


@contextmanager
def model_lease(client: MlflowClient, uri: str, model: str, who: str, timing: Timing, told: Told) -> Iterator[Check]:
    """Hold the lease on a model's channels. Gives its check, to be called before each change."""
    with foreign_errors(uri):
        experiment = client.get_experiment_by_name(model)
    if experiment is None:  # nothing is registered: nothing can move
        yield certain
        return
    with held(ExperimentTags(client, uri, experiment.experiment_id), who, timing, told) as check:
        yield check
