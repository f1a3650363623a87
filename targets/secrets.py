"""Addresses as messages may show them: without passwords, tokens and signatures. Pure, and the base of all errors.

An address is shown, logged, tagged or kept only as `shown` or `without_secrets` return it. Both mask when in doubt: in
`u:se/cret@host` and `u:p@ss@host`, which parsers read in different ways, everything between the user and the last `@`.
"""

from __future__ import annotations

import re
import urllib.parse
from functools import partial

HIDDEN = "***"
_START = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Within a text: a scheme's last letters are enough, and a text of nothing but letters takes steps in proportion to it.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}://\S*")
_USERINFO = re.compile(r"([^/?#:@]*):(.*)@", re.DOTALL)
_HOST_AND_PORT = re.compile(r"(?:\[[^\]@/?#]*\]|[^@:/?#\[\]]*)(?::[0-9]*)?(?:[/?#].*)?", re.DOTALL)
_PARAMETER = (
    r"([?&#;](?:[a-z_-]*(?:password|passwd|passphrase|token|secret|credentials?)|pwd|auth|authorization|api_?key|sig"
    r"|signature|policy|key-pair-id|awsaccesskeyid|googleaccessid|odbc_connect|hdnt[ls]|hdnea|x-(?:amz|goog)-[a-z-]+)=)"
)
_SECRET_PARAMETER = re.compile(rf"{_PARAMETER}(?:[^&#]*[^&#\s'\":,.;)])?", re.IGNORECASE)  # of one address, to its end
_SECRET_IN_TEXT = re.compile(rf"{_PARAMETER}(?:[^&#\s]*[^&#\s'\":,.;)])?", re.IGNORECASE)
_PLACEHOLDER = "PASSWORD"  # of advice such as http://NAME:PASSWORD@HOST
_SHORTEST_SECRET = 3  # a shorter one is found in every text


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
        start = _ADDRESS.search(one)
        if start is None:
            continue
        address = one[start.start() :]
        if address != (masked := shown(address)):
            text = text.replace(address, masked)
        for secret in _secrets(address):
            text = text.replace(secret, HIDDEN)
    # A driver may quote what follows the host alone.
    return _SECRET_IN_TEXT.sub(rf"\1{HIDDEN}", _ADDRESS.sub(lambda found: shown(found[0]), text))


def argument_shown(argument: str) -> str:
    """Return an argument of a command as a log may keep it; an address in it may have spaces."""
    start = _ADDRESS.search(argument)
    return argument if start is None else argument[: start.start()] + shown(argument[start.start() :])


def shown_without_query(address: str) -> str:
    """Return an address that a stranger chose, as messages may show it: any of its parameters may be a signature."""
    before, mark, _ = address.partition("?")
    return shown(f"{before}?{HIDDEN}" if mark else address)


def without_login(address: str) -> str:
    """Return the address of a server as a link may have it: no user, no password, no query, no fragment."""
    start = _START.match(address)
    scheme, rest = ("", address) if start is None else (start[0], address[start.end() :])
    if (found := _userinfo(scheme, rest)) is not None:
        rest = rest[found.end() :]
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return scheme + host.rpartition("@")[2] + slash + path


def has_ambiguous_password(address: str) -> bool:
    """Return True where the password of an address has an `@` that is not written %40: parsers cut it in two."""
    start = _START.match(address)
    found = None if start is None else _userinfo(start[0], address[start.end() :])
    return found is not None and "@" in found[2]


def _userinfo(scheme: str, rest: str) -> re.Match[str] | None:
    """Match `user:password@` up to the last @; None where what looks like it is a host with a port and a path."""
    if scheme in ("http://", "https://") and _HOST_AND_PORT.fullmatch(rest):
        return None
    found = _USERINFO.match(rest)
    return None if found is not None and found[2] == _PLACEHOLDER else found


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
