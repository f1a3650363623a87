"""The names that phipack has in MLflow, created when first needed: a cell's registered model, a model's experiment.

Two processes may need one at once, and MLflow lets one of them create it: the other uses what it then finds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from registry.ledger.mlflow_client import Mlflow
from registry.ledger.mlflow_errors import MlflowError
from registry.ledger.versions import CELL_TAG, MODEL_TAG, CellVersion, registered_model_name
from targets.errors import RegistryError


def claim_name(mlflow: Mlflow, model: str, cell: str) -> None:
    """Create the cell's registered model, or check that it is this cell's: `a.b` + `c` and `a` + `b.c` are one name.

    Raises:
        RegistryError: it is another cell's, not made by phipack, a prompt's, or hidden from this account.
    """
    name = registered_model_name(model, cell)
    tags = {MODEL_TAG: model, CELL_TAG: cell}
    found = _registered_model(mlflow, name)
    if found is None:
        try:
            mlflow.create_registered_model(name, tags)
        except MlflowError as error:  # another process was quicker, or it is refused for a reason that comes again
            found = _registered_model(mlflow, name)
            if found is None and error.code == "RESOURCE_ALREADY_EXISTS":
                raise _name_taken(mlflow, model, name) from error
            if found is None:
                raise
    if found is not None and any(found.tags.get(tag) != value for tag, value in tags.items()):
        raise RegistryError(
            f"MLflow's registered model {name} is not cell {cell!r} of model {model!r}",
            fix="rename the cell in phipack.toml",
        )


def _name_taken(mlflow: Mlflow, model: str, name: str) -> RegistryError:
    """Return the error for a name that no search finds: a prompt's, or that of a model that is hidden."""
    try:
        require_visible(mlflow, name)
    except MlflowError:
        return RegistryError(
            f"MLflow's registered model {name} exists, but this account may not read it",
            fix=f"ask MLflow's administrator for EDIT on it and on the experiment {model}",
        )
    return RegistryError(
        f"MLflow has a prompt named {name}, and gives no model a prompt's name",
        fix="rename the cell in phipack.toml, or delete that prompt in MLflow",
    )


def require_visible(mlflow: Mlflow, name: str) -> None:
    """Check that a registered model without versions has none, and is not hidden. Raises `RegistryError`.

    A search leaves out what an account may not read; asked for by its name, it is refused.
    """
    try:
        mlflow.registered_model(name)
    except MlflowError as error:
        if error.code != "RESOURCE_DOES_NOT_EXIST":
            raise


def existing_experiment(mlflow: Mlflow, model: str, rows: Callable[[], Sequence[CellVersion]]) -> Any | None:
    """Return the experiment MODEL, which holds the model's moves and plans; None where nothing was ever registered.

    Args:
        mlflow: where it is.
        model: its name.
        rows: returns the model's versions; called only where there is no experiment of that name.

    Raises:
        RegistryError: it was deleted, or renamed: then history, plans and promoters would seem to be empty.
    """
    found = mlflow.experiment(model)
    if found is None:
        _require_no_runs(mlflow, model, rows())
        return None
    if found.lifecycle_stage != "active":
        raise RegistryError(
            f"MLflow's experiment {model!r} is deleted", fix=f"mlflow experiments restore -x {found.experiment_id}"
        )
    return found


def experiment_id(
    mlflow: Mlflow, model: str, artifact_location: str | None, rows: Callable[[], Sequence[CellVersion]]
) -> str:
    """Return the ID of the experiment MODEL, which is created where it is missing.

    Args:
        mlflow: where it is.
        model: its name.
        artifact_location: where its runs keep their files, None for MLflow's default.
        rows: as for `existing_experiment`.

    Raises:
        RegistryError: it was deleted or renamed, or can't be created.
    """
    mlflow.connect()
    found = existing_experiment(mlflow, model, rows)
    if found is None:
        try:
            return mlflow.create_experiment(model, artifact_location)
        except MlflowError:  # as above
            found = existing_experiment(mlflow, model, rows)
            if found is None:
                raise
    return str(found.experiment_id)


def _require_no_runs(mlflow: Mlflow, model: str, rows: Sequence[CellVersion]) -> None:
    """Raise `RegistryError` where versions have runs in an experiment of another name."""
    for row in rows[:1]:
        experiment = mlflow.experiment_of(row.run_id)
        raise RegistryError(
            f"MLflow's experiment {experiment.name!r} holds the runs of model {model}: it was renamed from {model!r}",
            fix=f"mlflow experiments rename -x {experiment.experiment_id} -n {model}",
        )


def _registered_model(mlflow: Mlflow, name: str) -> Any:
    return next(iter(mlflow.registered_models(f"name = '{name}'")), None)
