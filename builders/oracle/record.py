"""`Agreement`, what the oracle found, and its record on disk: the cells of a release ask once.

    CACHE/oracle-KEY.json    {"agreement": …}, or {"problem": …, "fix": …} of a checkpoint that is read differently

KEY is a digest of all that the result depends on: the checkpoint, the versions of transformers and what it computes and
reads with, peft's where an adapter is merged, phipack's own code, and the day where the chat template writes it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from builders.checkpoint import Checkpoint
from builders.oracle.library import oracle_tools
from builders.oracle.transformers_text import TextTruth
from builders.own_code import own_code_digest
from registry.files.atomic import write_atomically
from registry.files.owned import private_folder, require_own_folder
from registry.files.staging import disk_errors
from targets.errors import MeasurementError
from targets.strict_json import parse_json


@dataclass(frozen=True)
class Agreement:
    """That phipack reads a checkpoint as transformers does, and how exactly.

    `log_probability_difference`: nats. `state_difference`: relative. `on`: what was compared with what. `text`: ids
    and stop ids that bundles must have too.
    """

    log_probability_difference: float
    state_difference: float
    on: str
    text: TextTruth


@dataclass(frozen=True)
class Record:
    """The record of one checkpoint in a folder; in None, nothing is kept."""

    cache: Path | None
    checkpoint: Checkpoint

    def read(self) -> Agreement | None:
        """Return what was recorded; None without a record, and for a damaged one.

        Raises:
            MeasurementError: the record says that the checkpoint is read differently.
        """
        if self.cache is None:
            return None
        try:
            require_own_folder(self.cache)
            content: dict[str, Any] = parse_json(self._path.read_bytes())
            if "problem" in content:
                problem = MeasurementError(content["problem"], fix=content["fix"])
            else:
                found = content["agreement"]
                return Agreement(**found | {"text": TextTruth.from_json(found["text"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        raise problem

    def write(self, found: Agreement | MeasurementError) -> None:
        """Record a result, whole or not at all."""
        if self.cache is None:
            return
        content: dict[str, Any]
        if isinstance(found, MeasurementError):
            content = {"problem": found.problem, "fix": found.fix}
        else:
            content = {"agreement": vars(found) | {"text": found.text.to_json()}}
        with disk_errors(self._path):
            private_folder(self.cache)
            write_atomically(self._path, json.dumps(content, allow_nan=False).encode())

    @property
    def _path(self) -> Path:
        assert self.cache is not None
        tools = oracle_tools(is_merged=self.checkpoint.merged_from is not None)
        versions = [(name, version(name)) for name in tools]
        parts = (self.checkpoint.digest, versions, own_code_digest(), *self._day)
        return self.cache / f"oracle-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.json"

    @property
    def _day(self) -> tuple[str, ...]:
        """The day on which conversations are rendered, if the template asks for it."""
        template = self.checkpoint.chat_template or ""
        return (date.today().isoformat(),) if "strftime_now" in template else ()  # noqa: DTZ011 - as templates have it
