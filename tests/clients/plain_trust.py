"""A sample client of docs/delivery.md, sections 1 to 3: HTTP, TUF and documents.

Written from that page and the TUF 1.0 specification alone, to be ported to Swift or Kotlin: it needs HTTP, JSON,
SHA-256 and signatures, and nothing of phipack.
Every error is a `Refused`, an `OSError` or what reading a damaged document raises; what is installed stays as it is.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding

Json = dict[str, Any]
MIB = 1024 * 1024
WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0)
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


class Refused(Exception):  # noqa: N818 - it says what the client did
    """What the server gave can't be trusted, or has nothing for this phone; the message says what and why."""


class Unsigned(Refused):
    """Too few good signatures: a rotation of keys may be under way."""


def sha256(data: bytes) -> str:
    """Return the 64 hex digits of the data's SHA-256."""
    return hashlib.sha256(data).hexdigest()


def need(condition: object, message: str) -> None:
    """Raise `Refused` unless the condition holds."""
    if not condition:
        raise Refused(message)


def is_listed(data: bytes, listed: Json) -> bool:
    """Say whether data has the length and all hashes that metadata lists; one by an unknown algorithm never fits."""
    found = {"sha256": sha256(data), "sha512": hashlib.sha512(data).hexdigest()}
    hashes = listed.get("hashes", {})
    return len(data) == listed.get("length", len(data)) and all(found.get(name) == hashes[name] for name in hashes)


# -- HTTP


def get(url: str, out: Path, limit: int, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Put at most `limit` bytes at `out`, trying again as section 5 says; return status and ETag."""
    for wait in WAITS_SECONDS:
        try:
            return get_once(url, out, limit, headers or {})
        except urllib.error.HTTPError as error:
            if error.code not in TRY_AGAIN:
                raise
            asked = error.headers.get("Retry-After", "")
            pause = max(wait, min(float(asked), 60.0)) if asked.isdecimal() else wait
        except OSError:
            pause = wait
        time.sleep(pause)
    return get_once(url, out, limit, headers or {})


def get_once(url: str, out: Path, limit: int, headers: dict[str, str]) -> tuple[int, str]:
    """Ask once; an answer that breaks off is an `OSError`."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            length = 0
            with out.open("wb") as stream:
                while data := answer.read(MIB):
                    length += len(data)
                    need(length <= limit, f"{url} is longer than {limit} bytes")
                    stream.write(data)
            if length < int(answer.headers.get("Content-Length", 0)):
                raise ConnectionError(f"{url} broke off after {length} bytes")
            return answer.status, answer.headers.get("ETag", "")
    except http.client.HTTPException as error:
        raise ConnectionError(f"{url}: {error!r}") from error


# -- 2. Trust


def canonical(value: object) -> bytes:
    """Return canonical JSON: sorted keys, no spaces, only quotes and backslashes escaped."""
    if isinstance(value, dict):
        return b"{" + b",".join(canonical(key) + b":" + canonical(value[key]) for key in sorted(value)) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(canonical, value)) + b"]"
    if isinstance(value, str):
        return ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"').encode()
    return json.dumps(value).encode()


def signed_by(key: Json, signature: bytes, message: bytes) -> bool:
    """Say whether the key made the signature."""
    scheme, text = key["scheme"], key["keyval"]["public"]
    try:
        if scheme == "ed25519":
            ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(text)).verify(signature, message)
            return True
        public: Any = serialization.load_pem_public_key(text.encode())
        if scheme == "ecdsa-sha2-nistp256":
            public.verify(signature, message, ec.ECDSA(hashes.SHA256()))
            return True
        if scheme == "rsassa-pss-sha256":
            public.verify(signature, message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
            return True
    except (InvalidSignature, TypeError, ValueError):
        pass
    return False


def check_signatures(root: Json, role: str, document: Json) -> None:
    """Refuse a document that fewer than the threshold of the role's keys in `root` sign."""
    message = canonical(document["signed"])
    allowed = root["roles"][role]
    signatures = {each["keyid"]: each["sig"] for each in document["signatures"]}
    need(len(signatures) == len(document["signatures"]), f"{role} has two signatures of one key")
    good = [
        name
        for name in set(allowed["keyids"]) & set(signatures)
        if signed_by(root["keys"][name], bytes.fromhex(signatures[name]), message)
    ]
    if len(good) < allowed["threshold"]:
        raise Unsigned(f"{role} has {len(good)} good signatures of {allowed['threshold']}")


def check_fresh(signed: Json) -> None:
    """Refuse a document past its expiry."""
    expires = datetime.strptime(signed["expires"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    need(expires > datetime.now(UTC), f"{signed['_type']} expired at {signed['expires']}")


class Trust:
    """The TUF client; `folder` keeps what was trusted last."""

    def __init__(self, base: str, folder: Path, root: bytes) -> None:
        self.base, self.folder = base.rstrip("/"), folder
        folder.mkdir(parents=True, exist_ok=True)
        document = json.loads(self.kept("root") or root)
        self.root: Json = document["signed"]
        check_signatures(self.root, "root", document)

    def read(self, path: str, limit: int) -> bytes:
        """Download a document of at most `limit` bytes."""
        out = self.folder / "answer"
        get(f"{self.base}/{path}", out, limit)
        return out.read_bytes()

    def kept(self, role: str) -> bytes | None:
        """Return the role's last trusted document."""
        path = self.folder / f"{role}.json"
        return path.read_bytes() if path.exists() else None

    def keep(self, role: str, data: bytes) -> None:
        """Replace the role's last trusted document at once."""
        part = self.folder / f"{role}.part"
        part.write_bytes(data)
        part.replace(self.folder / f"{role}.json")

    def last(self, role: str) -> Json | None:
        """Return the signed part of what was trusted last, if today's root still trusts it."""
        data = self.kept(role)
        if data is None:
            return None
        document: Json = json.loads(data)
        try:
            check_signatures(self.root, role, document)
        except Unsigned:
            return None
        signed: Json = document["signed"]
        return signed

    def refresh(self) -> Json:
        """Return the signed part of `targets.json`; where a signature does not hold, try once more after a second."""
        try:
            return self.refresh_once()
        except Unsigned:
            time.sleep(1)
            return self.refresh_once()

    def refresh_once(self) -> Json:
        """Follow chapter 5 of the specification."""
        self.renew_root()
        timestamp = self.load("timestamp", "timestamp.json", None, 16_384)
        meta = timestamp["meta"]["snapshot.json"]
        snapshot = self.load("snapshot", f"{meta['version']}.snapshot.json", meta, 2_000_000)
        meta = snapshot["meta"]["targets.json"]
        return self.load("targets", f"{meta['version']}.targets.json", meta, 5_000_000)

    def renew_root(self) -> None:
        """Walk the chain of roots to its end."""
        while True:
            version = self.root["version"] + 1
            try:
                data = self.read(f"metadata/{version}.root.json", 512_000)
            except urllib.error.HTTPError as error:
                if error.code not in {403, 404}:
                    raise
                break
            document = json.loads(data)
            check_signatures(self.root, "root", document)
            check_signatures(document["signed"], "root", document)
            need(document["signed"]["_type"] == "root", "root is of another type")
            need(document["signed"]["version"] == version, f"{version}.root.json is another version")
            self.root = document["signed"]
            self.keep("root", data)
        check_fresh(self.root)

    def load(self, role: str, name: str, meta: Json | None, limit: int) -> Json:
        """Return a role's document, checked as the specification asks; `meta` is what names it.

        One that is kept is not requested again; of two timestamps of one version, the first counts (5.4.3).
        """
        last, kept = self.last(role), self.kept(role)
        if meta and last and kept and last["version"] == meta["version"] and is_listed(kept, meta):
            check_fresh(last)
            return last
        data = self.read(f"metadata/{name}", limit)
        need(meta is None or is_listed(data, meta), f"{name} was changed")
        document = json.loads(data)
        check_signatures(self.root, role, document)
        signed: Json = document["signed"]
        need(signed["_type"] == role, f"{name} is of type {signed['_type']}")
        need(meta is None or signed["version"] == meta["version"], f"{name} is another version")
        if last and meta is None and signed["version"] == last["version"]:
            check_fresh(last)
            return last
        if last and role != "targets":  # the version of targets is held by the snapshot
            need(signed["version"] >= last["version"], f"{role} is older than what was trusted last")
            for key, value in last["meta"].items():
                newer = signed["meta"].get(key, {}).get("version", 0)
                need(newer >= value["version"], f"{role} names an older {key}")
        check_fresh(signed)
        self.keep(role, data)
        return signed

    def content(self, targets: Json, name: str) -> bytes:
        """Return a document by its name: the one that is kept, else download it and keep it."""
        entry = targets["targets"].get(name)
        if entry is None:
            raise Refused(f"the catalog has no {name}")
        folder, slash, last = name.rpartition("/")
        named = entry["hashes"].get("sha256") or next(iter(entry["hashes"].values()))
        kept = self.folder / hashlib.sha256(named.encode()).hexdigest()
        if kept.exists() and is_listed(data := kept.read_bytes(), entry):
            return data
        data = self.read(f"targets/{folder}{slash}{named}.{last}", entry["length"])
        need(is_listed(data, entry), f"{name} was changed")
        kept.write_bytes(data)
        return data

    def document(self, targets: Json, name: str, schema: str) -> Json:
        """Return a channel or a release by its name."""
        document: Json = json.loads(self.content(targets, name))
        need(document["schema"] == schema, f"{name} has schema {document['schema']}: update the app")
        return document
