"""Runs on a device, as a measurement's figures: medians, their spread, and what was not measured, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from builders.devices.bench_run import BenchRun
from builders.devices.cooling import Heat, has_fallen
from builders.devices.provider import DeviceSettings
from targets.errors import MeasurementError
from targets.measurement import SampledFigure, SettingsEntry

PREFILL, DECODE = "device_prefill_tokens_per_second", "device_decode_tokens_per_second"
FIRST_TOKEN, PEAK = "device_time_to_first_token_seconds", "device_peak_memory_bytes"
KL, ENERGY, TEMPERATURE = "device_kl_mean", "device_energy_joules_per_token", "device_temperature_celsius"


@dataclass(frozen=True)
class Repeat:
    """One run, and what was seen around it. `worst_status`: the highest while it ran. None: not known."""

    run: BenchRun
    before: Heat
    after: Heat
    worst_status: int | None
    peak_bytes: int | None
    joules: float | None


@dataclass
class Figures:
    """Figures, and the reasons for those that are missing."""

    measured: dict[str, SampledFigure] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, samples: Sequence[float | None], why_not: str, spread: float | None = None) -> None:
        """Add the median of one value a run; the reason `why_not` where a run has none.

        `spread`: the bound of (largest - smallest) / median; beyond it the figure was not measured.
        """
        known = [one for one in samples if one is not None]
        if not known or len(known) < len(samples):
            self.missing[name] = why_not
            return
        figure = SampledFigure.median(name, known)
        if spread is not None and figure.spread is not None and figure.spread > spread:
            self.missing[name] = (
                f"the {len(known)} repeats range from {min(known):.4g} to {max(known):.4g} {figure.unit}: "
                f"a spread of {figure.spread:.0%}, and at most {spread:.0%} counts"
            )
            return
        self.measured[name] = figure

    def add_largest(self, name: str, samples: Sequence[float | None], why_not: str) -> None:
        """Add the largest of one value a run; the reason where no run has one."""
        if known := [one for one in samples if one is not None]:
            self.measured[name] = SampledFigure.maximum(name, known)
        else:
            self.missing[name] = why_not


def figures_of(repeats: Sequence[Repeat], settings: DeviceSettings, *, no_energy: str) -> Figures:
    """Return the figures of all repeats. `no_energy`: the reason where energy is not known.

    Raises:
        MeasurementError: neither speed was measured: the repeats differ too much.
    """
    found = Figures()
    never = "the program did not say"
    found.add(PREFILL, [one.run.prefill_tokens_per_second for one in repeats], never, settings.spread)
    found.add(DECODE, [one.run.decode_tokens_per_second for one in repeats], never, settings.spread)
    found.add(FIRST_TOKEN, [one.run.prompt_seconds for one in repeats], never, settings.spread)
    if not found.measured:
        raise MeasurementError(
            f"no speed was measured: {'; '.join(f'{name}: {why}' for name, why in found.missing.items())}",
            fix="close other apps, switch on airplane mode, let the device cool, and measure again with more --repeat",
        )
    peaks = [one.peak_bytes or one.run.peak_bytes for one in repeats]
    found.add_largest(PEAK, peaks, "the device does not show the memory of the program")
    energies = [None if one.joules is None else one.joules / one.run.decode_tokens for one in repeats]
    found.add(ENERGY, energies, no_energy, settings.spread)
    heat = [_warmest(one) for one in repeats]
    found.add_largest(TEMPERATURE, heat, "the device does not say its temperature")
    return found


def within_spread(
    figures: Mapping[str, SampledFigure], bound: float
) -> tuple[dict[str, SampledFigure], dict[str, str]]:
    """Return the figures whose repeats agree, and the reasons for the others, by name.

    `bound`: of (largest - smallest) / median, a share.
    """
    missing = {
        name: f"a spread of {figure.spread:.0%} between repeats, and at most {bound:.0%} counts"
        for name, figure in figures.items()
        if figure.spread is not None and figure.spread > bound
    }
    return {name: figure for name, figure in figures.items() if name not in missing}, missing


def is_throttled(repeats: Sequence[Repeat]) -> bool | None:
    """Return True if the device said that it slows down for heat, or got slower over the repeats; None: not known."""
    statuses = [one for each in repeats for one in (each.worst_status, each.after.status) if one is not None]
    if any(statuses) or has_fallen([one.run.decode_tokens_per_second for one in repeats]):
        return True
    return False if statuses else None


def settings_entry(repeats: Sequence[Repeat], kl_tokens: int | None) -> SettingsEntry:
    """Return how the runs were made, as the program says it."""
    run = repeats[0].run
    facts: Mapping[str, int | None] = {
        "prompt_tokens": run.prompt_tokens,
        "decode_tokens": run.decode_tokens,
        "batch_size": run.batch_size,
        "threads": run.threads,
        "repeats": len(repeats),
        "kl_tokens": kl_tokens,
    }
    return SettingsEntry(**facts)


def _warmest(repeat: Repeat) -> float | None:
    known = [one.celsius for one in (repeat.before, repeat.after) if one.celsius is not None]
    return max(known, default=None)
