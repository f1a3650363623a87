"""phipack: build, prove, register and deliver Phi-3 models for phones.

The public API. What a name needs is imported when it is first asked for, so that an app team's
`from phipack import fetch` works with the base install.

    from pathlib import Path
    import phipack

    bundle = phipack.fetch("https://models.example/phi-3-mini/1.0.0/iphone-15", Path("bundle"))
    phipack.verify(bundle)

| name | what it does | install |
|---|---|---|
| `fetch`, `open_bundle`, `verify` | bundles by path or URL | phipack |
| `fetch_from_catalog`, `Query`, `Device` | what a published catalog has for a device | phipack |
| `open_checkpoint`, `build`, `validate`, `generate` | checkpoints in, bundles and evidence out | phipack[build] |
| `open_ledger`, `promote`, `rollback`, `history` | channels | phipack[registry] |
| `open_store`, `open_keys`, `publish`, `Order` | a channel as a signed catalog | phipack[registry] |

Everything raises `PhipackError` and its kinds (`targets.errors`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builders.build import build as build
    from builders.checkpoint import open_checkpoint as open_checkpoint
    from builders.runtime.generation import generate as generate
    from builders.validation.validate import validate as validate
    from registry.bundle.folder import open_bundle as open_bundle
    from registry.bundle.folder import verify as verify
    from registry.catalog.choice import Query as Query
    from registry.catalog.signing import open_keys as open_keys
    from registry.fetch import fetch as fetch
    from registry.fetch import fetch_from_catalog as fetch_from_catalog
    from registry.ledger.ledger import open_ledger as open_ledger
    from registry.promotion import history as history
    from registry.promotion import promote as promote
    from registry.promotion import rollback as rollback
    from registry.publication import Order as Order
    from registry.publication import publish as publish
    from registry.store.uris import open_store as open_store
    from targets.errors import PhipackError as PhipackError
    from targets.recipes import recipe_named as recipe_named
    from targets.selection import Device as Device

_HOMES = {
    "Device": "targets.selection",
    "Order": "registry.publication",
    "PhipackError": "targets.errors",
    "Query": "registry.catalog.choice",
    "build": "builders.build",
    "fetch": "registry.fetch",
    "fetch_from_catalog": "registry.fetch",
    "generate": "builders.runtime.generation",
    "history": "registry.promotion",
    "open_bundle": "registry.bundle.folder",
    "open_checkpoint": "builders.checkpoint",
    "open_keys": "registry.catalog.signing",
    "open_ledger": "registry.ledger.ledger",
    "open_store": "registry.store.uris",
    "promote": "registry.promotion",
    "publish": "registry.publication",
    "recipe_named": "targets.recipes",
    "rollback": "registry.promotion",
    "validate": "builders.validation.validate",
    "verify": "registry.bundle.folder",
}


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'phipack' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
