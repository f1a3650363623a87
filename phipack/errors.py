"""All errors that phipack raises on purpose, for `except phipack.errors.GateError`.

Each has `problem` (what failed, on which value), `fix` (what to do next) and `exit_code` (what the command line ends
with). They are defined in `targets.errors`, below all that raises them.
"""

from targets.errors import (
    BuildError,
    BundleError,
    CheckpointError,
    Failure,
    FetchError,
    FetchUnreachableError,
    FitError,
    GateError,
    KeysError,
    MalformedReferenceError,
    MeasurementError,
    PhipackError,
    ProjectError,
    PublicationError,
    RecipeError,
    RegistryError,
    RegistryUnreachableError,
    ReleaseError,
    SetupError,
    StoreError,
    StoreUnreachableError,
    TargetError,
    UnsupportedModelError,
)

__all__ = [
    "BuildError",
    "BundleError",
    "CheckpointError",
    "Failure",
    "FetchError",
    "FetchUnreachableError",
    "FitError",
    "GateError",
    "KeysError",
    "MalformedReferenceError",
    "MeasurementError",
    "PhipackError",
    "ProjectError",
    "PublicationError",
    "RecipeError",
    "RegistryError",
    "RegistryUnreachableError",
    "ReleaseError",
    "SetupError",
    "StoreError",
    "StoreUnreachableError",
    "TargetError",
    "UnsupportedModelError",
]
