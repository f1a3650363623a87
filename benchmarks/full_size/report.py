"""The measured rows as a table (Markdown) and as a plot (SVG)."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.full_size.measure import Measured
from benchmarks.full_size.rows import GIB, Row
from phipack.tables import table

COLUMNS = (
    "build",
    "size",
    "seconds",
    "of processors",
    "peak",
    "peer",
    "its seconds",
    "of processors",
    "its peak",
    "time, of peer's",
    "processors', of peer's",
    "bounds",
    "reached",
)


def seconds(runs: list[Measured]) -> float:
    """Return the median of the runs, in seconds."""
    return statistics.median(run.seconds for run in runs)


def processor_seconds(runs: list[Measured]) -> float:
    """Return the median of the runs' processor-seconds."""
    return statistics.median(run.processor_seconds for run in runs)


def peak(runs: list[Measured]) -> int:
    """Return the largest peak of the runs, in bytes."""
    return max(run.peak_bytes for run in runs)


def table_of(rows: list[Row]) -> str:
    """Return the rows as a table."""
    mini = {row.recipe: seconds(row.ours) for row in rows if row.model == "mini" and row.ours}
    return table(COLUMNS, [_cells(row, mini) for row in rows if row.ours])


def _cells(row: Row, mini: dict[str, float]) -> tuple[object, ...]:
    failed = next((run.failed for run in row.ours if run.failed), None)
    name = f"{row.model} {row.recipe}"
    if failed:
        unknown = [None] * (len(COLUMNS) - 2)
        return (name, *unknown, f"FAILED: {failed.splitlines()[-1]}")
    took, busy, theirs, theirs_busy = seconds(row.ours), processor_seconds(row.ours), None, None
    if row.theirs:
        broken = next((run.failed for run in row.theirs if run.failed), None)
        if broken is None:
            theirs, theirs_busy = seconds(row.theirs), processor_seconds(row.theirs)
    checks = _checks(row, took, theirs, mini)
    return (
        name,
        f"{row.artifact_bytes:,}",
        f"{took:.1f}",
        f"{busy:.1f}",
        f"{peak(row.ours) / GIB:.2f} GiB",
        row.peer,
        None if not row.theirs else "failed" if theirs is None else f"{theirs:.1f}",
        None if theirs_busy is None else f"{theirs_busy:.1f}",
        None if not row.theirs else f"{peak(row.theirs) / GIB:.2f} GiB",
        None if theirs is None else f"{took / theirs:.2f}",
        None if theirs_busy is None else f"{busy / theirs_busy:.2f}",
        ", ".join(text for text, _ in checks),
        "yes" if all(good for _, good in checks) else "NO",
    )


def _checks(row: Row, took: float, theirs: float | None, mini: dict[str, float]) -> list[tuple[str, bool]]:
    bounds, checks = row.bounds, []
    if bounds.peer_share is not None and theirs is not None:
        checks.append((f"≤ {bounds.peer_share} x", took <= bounds.peer_share * theirs))
    if bounds.seconds is not None:
        checks.append((f"≤ {bounds.seconds:g} s", took <= bounds.seconds))
    if bounds.mini_times is not None and row.recipe in mini:
        ratio = took / mini[row.recipe]
        checks.append((f"≤ {bounds.mini_times} x mini's (is {ratio:.2f})", ratio <= bounds.mini_times))
    if bounds.peak_bytes is not None:
        checks.append((f"≤ {bounds.peak_bytes / GIB:g} GiB", peak(row.ours) <= bounds.peak_bytes))
    return checks


def plot(rows: list[Row], path: Path) -> None:
    """Draw seconds and peak memory of each row, for phipack and for the peer."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "phipack"  # the same figures give the same file
    from matplotlib import pyplot as plt

    shown = [row for row in rows if row.ours and not any(run.failed for run in row.ours)][::-1]
    figure, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(10, 0.5 * len(shown) + 1.2))
    for place, row in enumerate(shown):
        for axis, of in ((left, seconds), (right, lambda runs: peak(runs) / GIB)):
            axis.barh(place + 0.2, of(row.ours), 0.38, color="#1f77b4")
            if row.theirs and not any(run.failed for run in row.theirs):
                axis.barh(place - 0.2, of(row.theirs), 0.38, color="#bbbbbb")
    left.set_yticks(range(len(shown)), [f"{row.model} {row.recipe}" for row in shown])
    left.set_xlabel("seconds (blue: phipack, grey: the peer)")
    right.set_xlabel("peak resident memory, GiB")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
