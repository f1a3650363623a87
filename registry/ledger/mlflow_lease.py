"""The lease's claims in MLflow: tags of the experiment MODEL, `phipack.lease.NAME`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from registry.ledger.lease import Check, Timing, held, never_lost
from registry.ledger.mlflow_client import Mlflow
from registry.ledger.versions import TAG_PREFIX
from targets.progress import Progress

_PREFIX = TAG_PREFIX + "lease."


@dataclass
class ExperimentTags:
    """A `registry.ledger.lease.LeaseTags`. `experiment`: as it was read last. Raises what `Mlflow` raises."""

    mlflow: Mlflow
    experiment: Any

    @property
    def experiment_id(self) -> str:
        """Its ID."""
        return str(self.experiment.experiment_id)

    def names(self) -> Mapping[str, str]:
        """Return all names with their values, as they were read last."""
        tags = self.experiment.tags
        return {name.removeprefix(_PREFIX): value for name, value in tags.items() if name.startswith(_PREFIX)}

    def read(self) -> Mapping[str, str]:
        """Return all names with their values."""
        self.experiment = self.mlflow.experiment_now(self.experiment_id)
        return self.names()

    def write(self, name: str, value: str) -> None:
        """Set a tag."""
        self.mlflow.set_experiment_tag(self.experiment_id, _PREFIX + name, value)

    def remove(self, name: str) -> None:
        """Delete a tag, if it is there."""
        self.mlflow.delete_experiment_tag(self.experiment_id, _PREFIX + name)


@contextmanager
def model_lease(
    mlflow: Mlflow, model: str, who: str, timing: Timing, on_progress: Progress
) -> Iterator[tuple[Check, Any | None]]:
    """Hold the lease on a model's channels.

    Yields its check, which must be called before each change, and the model's experiment, as it was read when all
    others were kept out; None where there is none.
    """
    experiment = mlflow.experiment(model)
    if experiment is None or experiment.lifecycle_stage != "active":  # nothing can move, as the caller will see
        yield never_lost, None
        return
    tags = ExperimentTags(mlflow, experiment)
    with held(tags, who, timing, on_progress, seen=tags.names()) as check:
        yield check, tags.experiment
