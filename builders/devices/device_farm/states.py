"""The states that Device Farm documents: of a run, of its result, of an upload. Another one is an error, not a guess.

Source: the service's own model, API version 2015-06-23 (botocore, data/devicefarm/2015-06-23).
"""

from __future__ import annotations

from dataclasses import dataclass

# Of a run. All but COMPLETED go on.
RUN_STATES = {
    "PENDING": "waiting",
    "PENDING_CONCURRENCY": "waiting for another run of this account to end",
    "PENDING_DEVICE": "waiting for the device",
    "PROCESSING": "being processed",
    "SCHEDULING": "being scheduled",
    "PREPARING": "preparing the device",
    "RUNNING": "running",
    "STOPPING": "being stopped",
    "COMPLETED": "completed",
}
WAITING = frozenset(("PENDING", "PENDING_CONCURRENCY", "PENDING_DEVICE", "PROCESSING", "SCHEDULING"))


@dataclass(frozen=True)
class Result:
    """What a completed run's result means. `fix` is empty where its outputs can be used."""

    meaning: str
    fix: str = ""


RESULTS = {
    "PASSED": Result("it passed"),
    "WARNED": Result("it passed with a warning"),
    "PENDING": Result("it completed without a result", "measure again"),
    "FAILED": Result("the commands on the test host failed", "read the log that the problem names, and measure again"),
    "SKIPPED": Result("it was skipped: the device can't run it", "choose another device: phipack devices ls"),
    "ERRORED": Result("the device or the service failed", "measure again, on another device if it fails again"),
    "STOPPED": Result("it was stopped", "measure again, with more minutes if they had run out"),
}

UPLOAD_STATES = {
    "INITIALIZED": "waiting for the bytes",
    "PROCESSING": "being checked",
    "SUCCEEDED": "accepted",
    "FAILED": "refused",
}

# Of a run that could not be carried out.
RESULT_CODES = {
    "PARSING_FAILED": "the test package could not be parsed",
    "VPC_ENDPOINT_SETUP_FAILED": "the VPC endpoint could not be set up",
}

# Of a device: those that a run can be scheduled on, and whether it waits.
AVAILABILITY = {
    "HIGHLY_AVAILABLE": "ready",
    "AVAILABLE": "ready",
    "BUSY": "busy",
    "TEMPORARY_NOT_AVAILABLE": "offline",
}
