"""Every kind of error that phipack raises on purpose, one class each. All are subclasses of `PhipackError`.

An error says what failed and with which value (`problem`), and what to do next (`fix`). The command line prints both
without a traceback. Exceptions of other libraries are wrapped once, where they are caught first, with `from`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from targets.printable import printable
from targets.secrets import without_secrets

ERROR_EXIT_CODE = 1  # bad input, and any error without an exit code of its own
GATE_EXIT_CODE = 3
UNREACHABLE_EXIT_CODE = 4  # a service did not answer: the same command may succeed later
INTERRUPTED_EXIT_CODE = 130


class PhipackError(Exception):
    """Base of all errors. `exit_code` is the exit code of the command line.

    Secrets in addresses are masked, and what a terminal would obey is shown by its number.
    """

    exit_code = ERROR_EXIT_CODE

    def __init__(self, problem: str, *, fix: str) -> None:
        problem, fix = printable(without_secrets(problem)), printable(without_secrets(fix))
        super().__init__(f"{problem}\n  fix: {fix}")
        self.problem = problem
        self.fix = fix


class CheckpointError(PhipackError):
    """A checkpoint folder can't be read: a shard, a tensor, the config or the tokenizer is missing or invalid."""


class UnsupportedModelError(CheckpointError):
    """The checkpoint is valid, but its architecture or rope is not supported, or not by the recipe."""


class RecipeError(PhipackError):
    """The recipe is unknown, or does not apply to this model."""


class TargetError(PhipackError):
    """The target is unknown, or its file is invalid."""


class ProjectError(PhipackError):
    """`phipack.toml` is invalid. The problem names file, line and key."""


class FitError(PhipackError):
    """The model does not fit the target with the requested recipe."""


class CalibrationError(PhipackError):
    """A calibration text or an importance matrix can't be used: damaged, too short, or made for another model."""


class BuildError(PhipackError):
    """A build failed for a reason outside the checkpoint, such as a full disk or a missing tool."""


class MeasurementError(PhipackError):
    """A bundle could not be run or compared."""


class DeviceError(MeasurementError):
    """A device can't be used, or a run on it failed: not authorized, full, disconnected, hung, too hot."""


class DeviceUnreachableError(DeviceError):
    """A device is not there, or did not answer any more. A later try may succeed."""

    exit_code = UNREACHABLE_EXIT_CODE


@dataclass(frozen=True)
class Failure:
    """One reason why a cell does not pass: a gate that failed, or evidence or a bundle that is missing."""

    cell: str
    problem: str


class GateError(PhipackError):
    """Evidence does not pass its gates. `failures`: every reason, with its cell."""

    exit_code = GATE_EXIT_CODE

    def __init__(self, problem: str, *, failures: Iterable[Failure] = (), fix: str) -> None:
        super().__init__(problem, fix=fix)
        self.failures = tuple(failures)


class ReleaseError(PhipackError):
    """Cells of a release failed. Each failure was reported separately."""


class BundleError(PhipackError):
    """A folder is not a bundle, or its files do not match its manifest."""


class StoreError(PhipackError):
    """The store can't be read or written, or a blob in it is damaged."""


class RegistryError(PhipackError):
    """MLflow refuses a request, or a request contradicts what is registered."""


class RegistryUnreachableError(RegistryError):
    """MLflow or its database does not answer, or answers with a server error. A later try may succeed."""

    exit_code = UNREACHABLE_EXIT_CODE


class StoreUnreachableError(StoreError):
    """The store's server does not answer, or answers with a server error. A later try may succeed."""

    exit_code = UNREACHABLE_EXIT_CODE


class MalformedReferenceError(PhipackError):
    """A reference `MODEL[:VERSION|:CHANNEL|:RANGE][@CELL]` is malformed, or no version matches it."""


class FetchError(PhipackError):
    """A bundle could not be downloaded."""


class FetchUnreachableError(FetchError):
    """The server of a bundle or catalog does not answer, or answers with a server error. A later try may succeed."""

    exit_code = UNREACHABLE_EXIT_CODE


class ClusterError(PhipackError):
    """A cluster can't do a job, or can't be used: no machine has what the job needs, or each that tried it failed."""


class ClusterUnreachableError(ClusterError):
    """A cluster's scheduler does not answer, or has no workers. A later try may succeed."""

    exit_code = UNREACHABLE_EXIT_CODE


class SetupError(PhipackError):
    """Something on this machine is missing or wrong, as `phipack doctor` finds."""


class KeysError(PhipackError):
    """Signing keys are missing, are not the root's keys, or can't sign."""


class PublicationError(PhipackError):
    """A catalog can't be published, or the published catalog is not signed by its keys."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a fix that names the known value most similar to `name`, or all known values if none is similar."""
    choices = sorted(known)
    near = closest(name, choices)
    return f"known: {', '.join(choices)}" if near is None else f"did you mean {near!r}?"


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known value most similar to `name`; None where none is similar.

    One with the same characters in another order comes first: `galaxy-s42` means `galaxy-s24`, not `galaxy-s25`.
    """
    near = difflib.get_close_matches(name, sorted(known), n=10, cutoff=0.6)
    return next((one for one in near if sorted(one) == sorted(name)), near[0] if near else None)
