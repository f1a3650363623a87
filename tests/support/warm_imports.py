"""What `warm_processes.py` has imported once: import it for that alone."""

from builders.validation import speed
from phipack.commands import cli  # noqa: F401
from registry import promotion  # noqa: F401
from registry.ledger.mlflow_connection import load
from tests.support.mlflow_schema import make_schema_once, remember_schema
from tests.support.warm_processes import ANY_SPREAD

load("sqlite://")
remember_schema()
speed.MOST_SPREAD = ANY_SPREAD
make_schema_once()
