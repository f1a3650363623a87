"""What can go wrong, one class a kind. Everything that phipack raises on purpose is a `PhipackError`.

An error says what failed, on which value (`problem`), and what to do next (`fix`). The command line prints the two
without a traceback. Foreign exceptions are wrapped once, where they enter, with `from`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

ERROR_EXIT_CODE = 1  # bad input, and whatever has no code of its own
USAGE_EXIT_CODE = 2
GATE_EXIT_CODE = 3
UNREACHABLE_EXIT_CODE = 4  # a service did not answer: the same command may succeed later
INTERRUPTED_EXIT_CODE = 130


class PhipackError(Exception):
    """Base of all errors. `exit_code` is what the command line ends with."""

    exit_code = ERROR_EXIT_CODE

    def __init__(self, problem: str, *, fix: str | None = None) -> None:
        super().__init__(problem if fix is None else f"{problem}\n  fix: {fix}")
        self.problem = problem
        self.fix = fix


class CheckpointError(PhipackError):
    """A checkpoint folder can't be read: a shard, a tensor, the config or the tokenizer is missing or wrong."""


class UnsupportedModelError(CheckpointError):
    """The checkpoint is sound, but of an architecture, rope or recipe that can't be built."""


class RecipeError(PhipackError):
    """No such recipe, or one that does not apply to this model."""


class TargetError(PhipackError):
    """No such target, or its file is wrong."""


class ProjectError(PhipackError):
    """`phipack.toml` is wrong. The problem names file, line and key."""


class FitError(PhipackError):
    """The model does not fit the target in the asked recipe."""


class BuildError(PhipackError):
    """A build failed for a reason outside the checkpoint: the disk is full, a tool is missing."""


class MeasurementError(PhipackError):
    """A bundle could not be run or compared."""


@dataclass(frozen=True)
class Failure:
    """One reason why a cell does not pass: a gate that failed, or evidence or a bundle that is missing."""

    cell: str
    problem: str


class GateError(PhipackError):
    """Evidence does not pass its gates. `failures`: every reason, by cell."""

    exit_code = GATE_EXIT_CODE

    def __init__(self, problem: str, *, failures: Iterable[Failure] = (), fix: str | None = None) -> None:
        super().__init__(problem, fix=fix)
        self.failures = tuple(failures)


class ReleaseError(PhipackError):
    """Cells of a release failed; each was reported by itself."""


class BundleError(PhipackError):
    """A folder is not a bundle, or its bytes are not the ones that its manifest names."""


class StoreError(PhipackError):
    """The store can't be read or written, or a blob in it is damaged."""


class RegistryError(PhipackError):
    """MLflow can't be reached, or what was asked contradicts what is registered."""


class RegistryUnreachableError(RegistryError):
    """MLflow or its database does not answer, or is in trouble; in a moment it may answer again."""

    exit_code = UNREACHABLE_EXIT_CODE


class StoreUnreachableError(StoreError):
    """The store's server does not answer, or is in trouble; in a moment it may answer again."""

    exit_code = UNREACHABLE_EXIT_CODE


class MalformedReferenceError(PhipackError):
    """A reference `MODEL[:VERSION|:CHANNEL|:^RANGE][@TARGET]` is malformed or names nothing."""


class FetchError(PhipackError):
    """A bundle could not be downloaded."""


class FetchUnreachableError(FetchError):
    """The server of a bundle or catalog does not answer, or is in trouble; in a moment it may answer again."""

    exit_code = UNREACHABLE_EXIT_CODE


class SetupError(PhipackError):
    """Something on this machine is missing or wrong, as `phipack doctor` finds."""


class KeysError(PhipackError):
    """Signing keys are missing, don't fit the root, or can't sign."""


class PublicationError(PhipackError):
    """A catalog can't be published, or what is published there is not what its keys signed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Give a fix that names the known value nearest to `name`, or all of them where none is near."""
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(choices)}"
