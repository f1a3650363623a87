"""Measures what a phone downloads of a catalog of 1,000 releases for 30 targets, and how long resolving takes.

    python -m benchmarks.catalog [--releases 1000] [--targets 30]

The catalog is signed, written to a folder and served over loopback HTTP. Its documents have the form that publication
writes, with the digests of bundles that do not exist. Prints a table; times are medians of 21 runs.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from devtools.servers import RangeHandler, serving
from registry.catalog.choice import Query, resolve
from registry.catalog.client import CatalogTrust, open_catalog
from registry.catalog.documents import (
    CellEntry,
    ChannelDocument,
    DeltaEntry,
    DeviceEntry,
    ReleaseDocument,
    channel_path,
    release_path,
)
from registry.catalog.published_state import read_published, write_next
from registry.catalog.rollout import ALL, Stage
from registry.catalog.signing import create_keys
from registry.store.folder import FolderStore
from registry.transfer.http import HttpClient
from targets.references import Reference
from targets.selection import Device

MODEL = "phi-3-mini-4k-instruct"
TIMES = 21


def digest(*parts: object) -> str:
    """Return a valid digest that depends on `parts`."""
    return "sha256:" + hashlib.sha256(repr(parts).encode()).hexdigest()


def release(number: int, targets: int) -> ReleaseDocument:
    """Return a release with one cell for each target, with two deltas each."""
    names = [f"phone-{target}" for target in range(targets)]
    return ReleaseDocument(
        schema="phipack.release/1",
        model=MODEL,
        release=version(number),
        devices={
            name: DeviceEntry(
                title=f"Phone {place} and {place} Plus",
                soc=f"SoC {place}",
                os="Android",
                minimum_os="14",
                identifiers=(f"PH-{place}A", f"PH-{place}B"),
                ram_bytes=8 << 30,
            )
            for place, name in enumerate(names)
        },
        cells={
            name: CellEntry(
                target=name,
                recipe="gguf-q4_0",
                format="gguf",
                bundle=digest(number, name),
                manifest_bytes=50_000,
                bytes=2_180_000_000,
                deltas=tuple(
                    DeltaEntry.model_validate(
                        {"from": digest(number - age, name), "blob": digest("delta", number, age), "bytes": 200_000_000}
                    )
                    for age in (1, 2)
                ),
            )
            for name in names
        },
    )


def version(number: int) -> str:
    """Return the version of a release: 9.9.9 for number 999."""
    return f"{number // 100}.{number // 10 % 10}.{number % 10}"


def median_ms(action: Callable[[], object]) -> float:
    """Return the median time of `TIMES` runs, in milliseconds."""
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


def main() -> None:
    """Build the catalog and measure a client of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=1000)
    parser.add_argument("--targets", type=int, default=30)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), asked.releases, asked.targets)


def measure(scratch: Path, releases: int, targets: int) -> None:
    """Measure, and print the table."""
    store, keys = FolderStore(scratch / "catalog"), create_keys(scratch / "keys", {})
    documents = {
        release_path(MODEL, version(number)): release(number, targets).to_bytes() for number in range(releases)
    }
    newest, before = version(releases - 1), version(releases - 2)
    stages = (Stage(release=newest, basis_points=1000), Stage(release=before, basis_points=ALL))
    channel = ChannelDocument(
        schema="phipack.channel/1",
        model=MODEL,
        channel="production",
        cells={f"phone-{number}": stages for number in range(targets)},
    )
    documents[channel_path(MODEL, "production")] = channel.to_bytes()
    began = time.perf_counter()
    write_next(read_published(store, keys), keys, documents)
    written = time.perf_counter() - began
    query = Query(device=Device(f"PH-{targets // 2}B"), install_id="a phone")
    root = scratch / "keys" / "1.root.json"
    numbers = itertools.count()
    with serving(store.root, kind=RangeHandler) as url, HttpClient() as client:
        first = open_catalog(url, client, CatalogTrust(root, scratch / "state"))
        kept = CatalogTrust(state=scratch / "state")
        resolved = resolve(first, query)
        received = client.received_bytes

        def as_a_new_phone() -> None:
            resolve(open_catalog(url, client, CatalogTrust(root, scratch / f"state-{next(numbers)}")), query)

        rows = [
            ("releases x targets", f"{releases} x {targets}"),
            ("written and signed by the publisher", f"{written:.2f} s"),
            ("metadata and documents, first time", f"{received:,} B"),
            ("resolved to", f"{resolved.reference}: {'; '.join(resolved.reasons)}"),
            ("first time: all of it", f"{median_ms(as_a_new_phone):.1f} ms"),
        ]
        rows.append(("refresh", f"{median_ms(lambda: open_catalog(url, client, kept)):.1f} ms"))
        catalogs = iter([open_catalog(url, client, kept) for _ in range(TIMES)])
        rows.append(("resolve after refresh, device", f"{median_ms(lambda: resolve(next(catalogs), query)):.1f} ms"))
        catalogs = iter([open_catalog(url, client, kept) for _ in range(TIMES)])
        ranged = Query(Reference.parse(f"{MODEL}:^{newest[0]}@phone-1"))
        rows.append(("resolve after refresh, a range", f"{median_ms(lambda: resolve(next(catalogs), ranged)):.1f} ms"))
    for name, value in rows:
        print(f"{name:<40}{value}")


if __name__ == "__main__":
    main()
