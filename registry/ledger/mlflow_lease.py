"""The lease's claims in MLflow: tags of the experiment MODEL, `phipack.lease.NAME`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from registry.ledger.lease import Check, Timing, held, never_lost
from registry.ledger.mlflow_client import Mlflow
from registry.ledger.versions import TAG_PREFIX
from targets.progress import Progress

_PREFIX = TAG_PREFIX + "lease."


@dataclass(frozen=True)
class ExperimentTags:
    """A `registry.ledger.lease.LeaseTags`. Raises what `Mlflow` raises."""

    mlflow: Mlflow
    experiment_id: str

    def read(self) -> Mapping[str, str]:
        """Return all names with their values."""
        tags = self.mlflow.experiment_tags(self.experiment_id)
        return {name.removeprefix(_PREFIX): value for name, value in tags.items() if name.startswith(_PREFIX)}

    def write(self, name: str, value: str) -> None:
        """Set a tag."""
        self.mlflow.set_experiment_tag(self.experiment_id, _PREFIX + name, value)

    def remove(self, name: str) -> None:
        """Delete a tag, if it is there."""
        self.mlflow.delete_experiment_tag(self.experiment_id, _PREFIX + name)


@contextmanager
def model_lease(mlflow: Mlflow, model: str, who: str, timing: Timing, on_progress: Progress) -> Iterator[Check]:
    """Hold the lease on a model's channels. Yields its check, which must be called before each change."""
    experiment = mlflow.experiment(model)
    if experiment is None:  # nothing is registered: nothing can move
        yield never_lost
        return
    with held(ExperimentTags(mlflow, experiment.experiment_id), who, timing, on_progress) as check:
        yield check
