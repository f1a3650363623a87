"""Stores as people name them: a slip that would become a folder of that name is refused, with what was meant."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path

from targets.errors import SetupError
from targets.secrets import shown
from targets.this_user import expanded

_SINGLE_SLASH = re.compile(r"(?:phipack-)?(s3|file|https?):(/?)(?!/)(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_STORE_FORMS = "a folder, file:///ABSOLUTE/PATH or s3://BUCKET/PREFIX"


def store_problem(text: str) -> tuple[str, str] | None:
    """Return what is wrong with a text that should name a store, and how to fix it; None where it names one."""
    if not text.strip():
        return "the store is an empty text", f"name {_STORE_FORMS}; leave it out for the default"
    if not text.isprintable():
        return f"{text!r} is not a store: it has control characters", f"name {_STORE_FORMS}"
    if meant := in_home(text):
        return f"{text!r} is not a store: only a shell knows ~", f"write the folder itself: {meant}"
    if slip := _SINGLE_SLASH.match(text):
        return f"{shown(text)!r} is not a store", f"did you mean {_meant(slip)}?"
    scheme, separator, rest = text.removeprefix("phipack-").partition("://")
    return _uri_problem(text, scheme, rest) if separator else None


def is_plain_path(path: str) -> bool:
    """True for a relative path of plain parts, `a/b.json`: nothing in it, however encoded, leads up or elsewhere."""
    return not set(path) & set("?#") and all(_is_plain_part(part) for part in path.split("/"))


def in_home(text: str) -> str | None:
    """Return the path that a shell would make of `~/…` or `~NAME/…`; None for any other text."""
    if not text.startswith("~"):
        return None
    try:
        return str(expanded(text))
    except SetupError:
        return f"/ABSOLUTE/PATH/{text.partition('/')[2]}"


def _meant(slip: re.Match[str]) -> str:
    scheme, slash, rest = slip[1], slip[2], slip[3]
    if scheme == "file":
        return f"file:///{rest}" if slash else f"file://{Path.cwd() / rest}"
    return shown(f"{scheme}://{rest}")


def _uri_problem(text: str, scheme: str, rest: str) -> tuple[str, str] | None:
    if scheme == "s3":
        return _bucket_problem(text, rest)
    if scheme != "file":
        return f"{shown(text)!r} is not a store: the scheme {scheme!r} is unknown", f"use {_STORE_FORMS}"
    if not rest.startswith("/") or rest.startswith("//"):
        return f"{text!r} is not a store: it names a host", f"write file:///{rest.lstrip('/')}"
    return None


def _bucket_problem(text: str, rest: str) -> tuple[str, str] | None:
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        why = "credentials belong into AWS_* variables" if "@" in bucket else "no bucket's name"
        return f"{shown(text)!r} is not a store: {why}", "use s3://BUCKET/PREFIX"
    if prefix.strip("/") and not is_plain_path(prefix.strip("/")):
        fix = "use a prefix of plain names, such as s3://BUCKET/models/phi: no ?, #, empty parts or .."
        return f"{shown(text)!r} is not a store: the prefix {shown(prefix)!r} can't be part of a URL", fix
    return None


def _is_plain_part(part: str) -> bool:
    while (decoded := urllib.parse.unquote(part)) != part:
        part = decoded
    return part not in ("", ".", "..") and part.isprintable() and not set(part) & set("/\\")
