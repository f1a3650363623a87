"""MLflow as a user imports it: its own module, which keeps one tracking URI for the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def users_mlflow(uri: str) -> Iterator[Any]:
    """Point the process's MLflow at `uri`, and at nothing afterwards.

    Its registry follows the tracking URI. Putting back what was asked for before would set what had only been a
    default, and the next one who asks would get it.
    """
    import mlflow

    mlflow.set_tracking_uri(uri)
    try:
        yield mlflow
    finally:
        mlflow.set_tracking_uri(None)
