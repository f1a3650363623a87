"""Reads numbers from `config.json`, or from an object within it, with errors that name the key."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from targets.errors import CheckpointError

LARGEST_SIZE = (1 << 31) - 1  # of a dimension or a count
DOWNLOAD_AGAIN = "download the checkpoint's config.json again, or correct the value to what the model was trained with"
USE_SUPPORTED = "use the checkpoint of a released Phi-3 model, or of a model with the same architecture"


class ConfigReader:
    """Reads numbers from a config. `where` is the prefix of the key's name in errors, such as "rope_parameters."."""

    def __init__(self, config: Mapping[str, Any], where: str = "") -> None:
        self._config = config
        self._where = where

    def positive(self, key: str, *, default: int | None = None) -> int:
        """Return a whole number from 1, or `default` if the key is absent."""
        return self._whole(key, self._config.get(key, default), 1)

    def positive_or_null(self, key: str, *, default: int) -> int:
        """Return a whole number from 1, or `default` if the key is absent or null."""
        return default if self._config.get(key) is None else self.positive(key)

    def count(self, key: str, *, default: int | None = None) -> int:
        """Return a whole number from 0, or `default` if the key is absent."""
        return self._whole(key, self._config.get(key, default), 0)

    def flag(self, key: str, *, default: bool) -> bool:
        """Return true or false, or `default` if the key is absent."""
        value = self._config.get(key, default)
        if not isinstance(value, bool):
            raise CheckpointError(
                f"config.json: {self._where}{key} must be true or false, not {value!r}", fix=DOWNLOAD_AGAIN
            )
        return value

    def number(self, key: str, *, default: float) -> float:
        """Return a number over 0, finite as a float, or `default` if the key is absent."""
        value = self._config.get(key, default)
        if not is_positive(value):
            raise CheckpointError(
                f"config.json: {self._where}{key} must be a positive number, not {value!r}", fix=DOWNLOAD_AGAIN
            )
        return float(value)

    def number_or_null(self, key: str, *, default: float) -> float:
        """Return a number over 0, finite as a float, or `default` if the key is absent or null."""
        return default if self._config.get(key) is None else self.number(key, default=default)

    def _whole(self, key: str, value: object, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST_SIZE:
            kind = "a positive whole number" if least else "a whole number from 0"
            raise CheckpointError(f"config.json: {self._where}{key} must be {kind}, not {value!r}", fix=DOWNLOAD_AGAIN)
        return value


def is_positive(value: object) -> bool:
    """Return True for a number over 0 that is finite as a float (JSON may contain an integer of 400 digits)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value <= sys.float_info.max
