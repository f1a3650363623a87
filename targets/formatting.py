"""How figures are written for people: sizes, rates, shares, durations, and evidence by its unit.

All sizes are decimal, as phones and stores count them: 1 GB is 10^9 bytes, for files and for memory. JSON has plain
numbers in base units instead.
"""

from __future__ import annotations

import math

_SIZE_UNITS = (("B", 1), ("kB", 10**3), ("MB", 10**6), ("GB", 10**9), ("TB", 10**12))
_ROUNDS_TO_THOUSAND = 999.5  # what three digits show as 1000


def size(count: float) -> str:
    """Return bytes with a decimal unit and three digits: `2.18 GB`."""
    unit, factor = next((one for one in _SIZE_UNITS if abs(count) < _ROUNDS_TO_THOUSAND * one[1]), _SIZE_UNITS[-1])
    value = count / factor
    return f"{value:.0f} {unit}" if factor == 1 or abs(value) >= _ROUNDS_TO_THOUSAND else f"{value:.3g} {unit}"


def count(number: int, noun: str) -> str:
    """Return a number of things: `1 cell`, `1,200 cells`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def recipe_shown(recipe: str, calibration: str, budget: str | None, kv_cache: str) -> str:
    """Return a recipe with what it was built with: `gguf-q4_k_m, light, at most 2 GB, q8_0 KV cache`."""
    learned = None if calibration == "none" else calibration
    parts = (recipe, learned, budget and budget_shown(budget), kv_cache and f"{kv_cache} KV cache")
    return ", ".join(part for part in parts if part)


def budget_shown(label: str) -> str:
    """Return a budget's label, `at most 2000000000 B`, with a unit for people: `at most 2 GB`."""
    count = label.removeprefix("at most ").removesuffix(" B")
    return f"at most {size(int(count))}" if count.isdecimal() else label


def signed_size(difference: float) -> str:
    """Return a difference in bytes with its sign: `+1.5 MB`."""
    return ("+" if difference > 0 else "") + size(difference)


def rate(bytes_per_second: float) -> str:
    """Return bytes per second: `35 MB/s`."""
    return f"{size(bytes_per_second)}/s"


def share(value: float) -> str:
    """Return a share of 1 in percent: `98.20 %`."""
    return f"{100 * value:.2f} %"


def duration(seconds: float) -> str:
    """Return a duration: `0.8 s`, `42 s`, `3 min 20 s`, `1 h 05 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def signed_figure(name: str, difference: float, unit: str | None = None) -> str:
    """Return the difference of two values of a figure, with sign and unit: `+0.02 nat`."""
    return ("+" if difference > 0 else "") + figure(name, difference, unit)


def bound(name: str, text: str) -> str:
    """Return a gate's bound on a figure, `<= 97000000`, with the figure's unit: `<= 97 MB`."""
    sign, _, value = text.partition(" ")
    return f"{sign} {figure(name, float(value))}"


def figure(name: str, value: float | None, unit: str | None = None) -> str:
    """Return a figure of evidence with its unit, `-` where it was not taken.

    `unit`: the figure's own, for a name that `targets.evidence.FIGURES` does not list.
    """
    if value is None:
        return "-"
    from targets.evidence import FIGURES

    known = unit or FIGURES.get(name, ("1", ""))[0]
    if not math.isfinite(value):
        return str(value)
    if known == "B":
        return size(value)
    if known == "share":
        return share(value)
    return f"{value:.4g}" if known == "1" else f"{value:.4g} {known}"
