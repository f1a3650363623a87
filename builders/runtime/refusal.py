"""What to do about a bundle that its runtime refuses: one sentence for all runtimes."""

from __future__ import annotations

from pathlib import Path


def check_fix(path: Path) -> str:
    """Return how to find out whether a bundle is damaged. `path`: its folder."""
    return f"run phipack inspect --verify {path}; if it is damaged, fetch or build it again"
