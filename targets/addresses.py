"""Addresses as people write them: shown without their secrets, and refused where they only look like a place. Pure.

An address is shown, logged, tagged or kept only as `shown` or `without_secrets` return it. Both mask when in doubt: in
`u:se/cret@host` and `u:p@ss@host`, which parsers read in different ways, everything between the user and the last `@`.
"""

from __future__ import annotations

import re
import urllib.parse
from functools import partial
from pathlib import Path

from targets.errors import SetupError
from targets.this_user import expanded

HIDDEN = "***"
_START = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*")
_USERINFO = re.compile(r"([^/?#:@]*):(.*)@", re.DOTALL)
_HOST_AND_PORT = re.compile(r"(?:\[[^\]@/?#]*\]|[^@:/?#\[\]]*)(?::[0-9]*)?(?:[/?#].*)?", re.DOTALL)
_SECRET_PARAMETER = re.compile(
    r"([?&](?:[a-z_-]*(?:password|passwd|passphrase|token|secret)|pwd|api_?key|sig|signature|policy|key-pair-id"
    r"|awsaccesskeyid|x-(?:amz|goog)-[a-z-]+)=)[^&\s'\"]*",
    re.IGNORECASE,
)
_SHORTEST_SECRET = 3  # a shorter one is found in every text
_SINGLE_SLASH = re.compile(r"(?:phipack-)?(s3|file|https?):(/?)(?!/)(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_STORE_FORMS = "a folder, file:///ABSOLUTE/PATH or s3://BUCKET/PREFIX"


def shown(address: str) -> str:
    """Return one address as messages may show it: the password, tokens and signatures in it as ***."""
    start = _START.match(address)
    if start is None:
        return _SECRET_PARAMETER.sub(rf"\1{HIDDEN}", address)
    scheme, rest = address[: start.end()], address[start.end() :]
    if (found := _userinfo(scheme, rest)) is not None:
        rest = f"{found[1]}:{HIDDEN}@{rest[found.end() :]}"
    return scheme + _SECRET_PARAMETER.sub(rf"\1{HIDDEN}", rest)


def without_secrets(text: str, *known: str) -> str:
    """Return a text with the addresses in it as `shown` returns them.

    `known`: addresses, or arguments with one in them; their secrets must not be in it either, encoded or not: a driver
    may quote them in parts.
    """
    for one in known:
        start = _START.search(one)
        if start is None:
            continue
        address = one[start.start() :]
        if address != (masked := shown(address)):
            text = text.replace(address, masked)
        for secret in _secrets(address):
            text = text.replace(secret, HIDDEN)
    return _ADDRESS.sub(lambda found: shown(found[0]), text)


def argument_shown(argument: str) -> str:
    """Return an argument of a command as a log may keep it; an address in it may have spaces."""
    start = _START.search(argument)
    return argument if start is None else argument[: start.start()] + shown(argument[start.start() :])


def has_ambiguous_password(address: str) -> bool:
    """Return True where the password of an address has an `@` that is not written %40: parsers cut it in two."""
    start = _START.match(address)
    found = None if start is None else _userinfo(start[0], address[start.end() :])
    return found is not None and "@" in found[2]


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


def _userinfo(scheme: str, rest: str) -> re.Match[str] | None:
    """Match `user:password@` up to the last @; None where what looks like it is a host with a port and a path."""
    if scheme in ("http://", "https://") and _HOST_AND_PORT.fullmatch(rest):
        return None
    return _USERINFO.match(rest)


def _secrets(address: str) -> list[str]:
    """Return the secrets of an address in every form in which a library may repeat them, the longest first."""
    scheme, separator, rest = address.partition("://")
    found = _userinfo(scheme + separator, rest)
    secrets = set() if found is None else {found[2], *found[2].split("@")}
    for parameter in _SECRET_PARAMETER.finditer(rest):
        secrets.add(parameter[0][len(parameter[1]) :])
    for written in (urllib.parse.unquote, urllib.parse.unquote_plus, partial(urllib.parse.quote, safe="")):
        secrets |= {written(one) for one in secrets}
    return sorted((one for one in secrets if len(one) >= _SHORTEST_SECRET), key=len, reverse=True)
