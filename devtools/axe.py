"""axe-core, the rules for accessible pages that browsers' own audits use, from npm (MPL-2.0). Tests run it."""

from __future__ import annotations

import tarfile
from pathlib import Path

from devtools.packages import Package, default_cache, pinned

PACKAGE = Package(
    "axe-core@4.11.0",
    "axe-core-4.11.0.tgz",
    "39bed7d72308f6d620789c169d699bfd7e8da80f65b545821a6b2215c3e83107",
)


def script(cache: Path | None = None) -> str:
    """Return the script that defines `axe` in a page. It is downloaded first if it is missing.

    Raises:
        BuildError: the package can't be fetched, or is another.
    """
    with tarfile.open(pinned(PACKAGE, cache or default_cache())) as tar:
        content = tar.extractfile("package/axe.min.js")
        assert content is not None
        return content.read().decode()
