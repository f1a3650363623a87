"""What tuf-conformance runs: the product's TUF client, or the sample client, as a command that it knows.

    make conformance SUITE=…/tuf-conformance

The suite (github.com/theupdateframework/tuf-conformance) is the TUF project's own; its CLIENT-CLI.md describes this
command. Delegations are no part of docs/delivery.md: its tests of them are left out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from registry.catalog.client import Catalog, refreshed_targets
from registry.catalog.tuf_fetcher import MetadataFetcher
from registry.transfer.http import HttpClient
from targets.errors import FetchError
from tests.clients.plain_trust import Refused, Trust


def product(base: str, metadata: Path, name: str | None) -> bytes | None:
    """Refresh with phipack's client; return the document of that name, if one is asked for."""
    with HttpClient() as client:
        files = refreshed_targets(base, MetadataFetcher(client), metadata, None, wait=client.wait)
        return None if name is None else Catalog(files, base, client, metadata.parent).content(name)


def sample(base: str, metadata: Path, name: str | None) -> bytes | None:
    """Do the same with the sample client."""
    trust = Trust(base, metadata, b"")
    targets = trust.refresh()
    return None if name is None else trust.content(targets, name)


def main(arguments: list[str] | None = None) -> int:
    """Run one command of the suite's. Return 1 where the client refuses."""
    parser = argparse.ArgumentParser()
    parser.add_argument("client", choices=("product", "sample"))
    for option in ("--metadata-url", "--metadata-dir", "--target-name", "--target-dir", "--target-base-url"):
        parser.add_argument(option)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root")
    commands.add_parser("refresh")
    commands.add_parser("download")
    given = parser.parse_args(arguments)
    metadata = Path(given.metadata_dir)
    if given.command == "init":
        shutil.copyfile(given.trusted_root, metadata / "root.json")
        return 0
    base = given.metadata_url.rstrip("/").removesuffix("/metadata")
    name = given.target_name if given.command == "download" else None
    try:
        content = {"product": product, "sample": sample}[given.client](base, metadata, name)
    except (FetchError, OSError, Refused):
        return 1
    if name is None:
        return 0
    if content is None:
        return 1
    out = Path(given.target_dir) / name.replace("/", "%2F")
    if not out.exists() or out.read_bytes() != content:
        out.write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
