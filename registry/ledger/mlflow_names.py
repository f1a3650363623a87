"""The names that phipack has in MLflow, made when first needed: a cell's registered model, a model's experiment.

Two processes may need one at once, and MLflow lets one of them make it: the other takes what it then finds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.ledger.versions import CELL_TAG, MODEL_TAG, registered_model_name
from targets.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient


def claim_name(client: MlflowClient, model: str, cell: str) -> None:
    """Make the cell's registered model, or see that it is this cell's: `a.b` + `c` and `a` + `b.c` are one name.

    Raises:
        RegistryError: it is another cell's, nobody's of phipack's, or not this account's to see. What MLflow raises is
            the caller's to wrap.
    """
    from mlflow.exceptions import MlflowException

    name = registered_model_name(model, cell)
    tags = {MODEL_TAG: model, CELL_TAG: cell}
    found = _registered_model(client, name)
    if found is None:
        try:
            client.create_registered_model(name, tags=tags)
        except MlflowException as error:  # another process was quicker, or it is refused for a reason that comes again
            found = _registered_model(client, name)
            if found is None and error.error_code == "RESOURCE_ALREADY_EXISTS":
                raise RegistryError(
                    f"MLflow's registered model {name} is there, and this account may not read it",
                    fix=f"ask MLflow's administrator for EDIT on it and on the experiment {model}",
                ) from error
            if found is None:
                raise
    if found is not None and any(found.tags.get(tag) != value for tag, value in tags.items()):
        raise RegistryError(
            f"MLflow's registered model {name} is not cell {cell!r} of model {model!r}",
            fix="give the cell another name in phipack.toml",
        )


def require_seen(client: MlflowClient, model: str, cell: str) -> None:
    """See that a cell without versions has none, and is not kept from this account. What MLflow raises is not wrapped.

    A search leaves out what an account may not read; asked for by its name, it is refused.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(registered_model_name(model, cell))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def experiment_id(client: MlflowClient, model: str, place: str | None) -> str:
    """ID of the experiment MODEL, made where it is missing; `place`: where its runs' files go, None for MLflow's own.

    Raises:
        RegistryError: it was deleted. What MLflow raises is the caller's to wrap.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(model)
    if found is None:
        try:
            return str(client.create_experiment(model, artifact_location=place))
        except MlflowException:  # as above
            found = client.get_experiment_by_name(model)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise RegistryError(
            f"MLflow's experiment {model!r} is deleted", fix=f"mlflow experiments restore -x {found.experiment_id}"
        )
    return str(found.experiment_id)


def _registered_model(client: MlflowClient, name: str) -> Any:
    return next(iter(client.search_registered_models(f"name = '{name}'")), None)
