"""Measurements of a bundle, as `phipack measure` and `phipack evidence import` write them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from targets.measurement import Measurement

BUNDLE = "sha256:" + "a" * 64


def measurement(
    speed: float = 13.0,
    *,
    bundle: str | None = BUNDLE,
    match: Literal["digest", "claim"] = "digest",
    day: int = 1,
    **device: Any,
) -> Measurement:
    """Return a measurement of decoding on an iPhone 15, of a day in May."""
    return Measurement.model_validate(
        {
            "schema": "phipack.measurement/1",
            "match": match,
            "bundle": bundle,
            "claim": None if match == "digest" else "alice: run.json",
            "device": {"model": "iPhone15,4", "os": "iOS", "os_version": "18.1", "soc": "Apple A16"} | device,
            "runtime": {"name": "llama.cpp", "version": "b6500"},
            "settings": {"decode_tokens": 128},
            "figures": {
                "device_decode_tokens_per_second": {"value": speed, "unit": "token/s", "statistic": "mean"},
            },
            "throttled": None,
            "source": "import",
            "tool": "llama-bench",
            "taken": datetime(2026, 5, day, tzinfo=UTC),
        }
    )
