"""Metadata of a catalog that somebody with its keys has signed, and no publisher of ours writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from securesystemslib.signer import Signer

from devtools.catalogs import Publisher
from registry.catalog.signing import Role
from tests.clients.plain_trust import Json, canonical


def forge(publisher: Publisher, role: Role, change: Callable[[Json], object]) -> bytes:
    """Change a role's newest metadata, signed by its key, and what names it; the root: its next version.

    The timestamp has a version of its own, as a new one must. Return what was written for the role.
    """
    folder = publisher.place.root / "metadata"
    path = max(folder.glob(f"*{role}.json"))
    content = json.loads(path.read_bytes())["signed"]
    if role == "root":
        path = folder / "2.root.json"
        content["version"] = 2
    if role == "timestamp":
        content["version"] += 1
    change(content)
    data = signed(publisher, role, content)
    path.write_bytes(data)
    named = {"hashes": {"sha256": hashlib.sha256(data).hexdigest()}, "length": len(data)}
    above: dict[Role, Role] = {"targets": "snapshot", "snapshot": "timestamp"}
    if role in above:
        forge(publisher, above[role], lambda signed: signed["meta"][f"{role}.json"].update(named))
    return data


def signed(publisher: Publisher, role: Role, content: Json) -> bytes:
    """Return metadata with the signature of the role's one key."""
    root = publisher.keys.root.signed
    (name,) = root.roles[role].keyids
    private = publisher.keys.path / publisher.keys.keys.signers[name].removeprefix("file2:")
    signature = Signer.from_priv_key_uri(f"file2:{private}", root.keys[name]).sign(canonical(content))
    return json.dumps({"signatures": [signature.to_dict()], "signed": content}).encode()
