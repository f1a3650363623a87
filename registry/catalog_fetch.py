"""A bundle from a catalog: what the device is to have is resolved, then fetched as any bundle on the web."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from registry.bundle import Bundle
from registry.catalog import install_id, open_catalog
from registry.catalog_choice import Query, Resolved, resolve
from registry.fetch import Onto, fetch_remote
from registry.http_requests import Web
from targets.devices import load_targets
from targets.selection import Device


def fetch_from_catalog(  # noqa: PLR0913 - the public face
    url: str,
    out: Path,
    query: Query | None = None,
    *,
    root: Path | None = None,
    state: Path | None = None,
    digest: str | None = None,
    onto: Onto | None = None,
) -> tuple[Bundle, Resolved]:
    """Put at `out` the bundle that a catalog has for a device, verified from the pinned root down to the last byte.

    Args:
        url: the catalog's folder, the one that has `metadata/`.
        out: the bundle's folder; must not exist, unless it is this very bundle already, or `onto.replace`.
        query: what is asked for; a device that phipack knows by its identifier needs no more said of it.
        root: the trusted root's file; needed the first time.
        state: where trust and the installation's name are kept (`catalog.py`).
        digest: accept only the bundle of this digest, `sha256:…`.
        onto: how the download meets what is here.

    Raises:
        FetchError: the catalog is not to be trusted, has nothing for the query, or can't be downloaded.
        BuildError: `out` exists or can't be written.
    """
    query, onto = query or Query(), onto or Onto()
    query = replace(query, device=known(query.device), install_id=query.install_id or install_id(state))
    with Web() as web:
        try:
            catalog = open_catalog(url, web, root=root, state=state)
            resolved = resolve(catalog, query)
            return fetch_remote(catalog.bundle(resolved), web, out, digest=digest, onto=onto), resolved
        finally:
            onto.taken.downloaded_bytes += web.received_bytes


def known(device: Device) -> Device:
    """Add what phipack's own targets know of a device with this identifier."""
    for target in load_targets().values():
        if device.identifier in target.identifiers:
            return Device(
                device.identifier,
                device.soc or target.soc,
                device.ram_bytes or int(target.ram.value),
                device.os or target.os,
                device.os_version,
            )
    return device
