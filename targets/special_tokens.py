"""The special tokens that a tokenizer_config.json names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def special_tokens_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return them by role, such as `bos_token`: chat templates use them by these names."""
    return {role: text for role, text in config.items() if role.endswith("_token") and isinstance(text, str)}
