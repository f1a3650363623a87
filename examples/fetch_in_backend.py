"""Keep the bundle of a channel up to date in an app's backend.

    python examples/fetch_in_backend.py CATALOG_URL REFERENCE FOLDER ROOT_FILE [SECONDS]

CATALOG_URL is where a catalog is published, REFERENCE such as phi-3-mini:production@pixel-9, ROOT_FILE the catalog's
1.root.json as its publisher handed it out. Looks every SECONDS; once where no SECONDS are given. Needs phipack alone.

The bundle lies in FOLDER, verified, and is replaced in one rename: whoever reads it sees the old one or the new one.
An update copies what the old bundle has and downloads the rest, or a delta.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import phipack


def update(catalog: str, reference: str, folder: Path, root: str) -> bool:
    """Bring the bundle up to date. Return whether there is one to serve."""
    before = phipack.open_bundle(folder).digest if folder.exists() else None
    try:
        fetched = phipack.fetch_from_catalog(catalog, folder, reference, root=root, replace=True)
    except phipack.errors.FetchUnreachableError as error:
        print(f"kept as it is: {error.problem}", file=sys.stderr)  # the next try may succeed
        return before is not None
    if fetched.bundle.digest != before:
        print(f"now {fetched.reference}: {fetched.statistics.downloaded_bytes:,} bytes were downloaded")
    return True


def main(catalog: str, reference: str, folder: str, root: str, seconds: str = "0") -> int:
    """Update, for ever or once. Return the exit code."""
    while True:
        try:
            serving = update(catalog, reference, Path(folder), root)
        except phipack.PhipackError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        if not float(seconds):
            return 0 if serving else 4
        time.sleep(float(seconds))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) >= 5 else __doc__)
