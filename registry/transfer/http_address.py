"""Addresses of HTTP servers and proxies, parsed by urllib3, which also connects: both read the same host and port."""

from __future__ import annotations

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from targets.secrets import shown


def http_address_problem(text: str) -> str | None:
    """Return what is wrong with an address, without its secrets; None where it is http(s)://HOST[:PORT][/PATH…]."""
    scheme, separator, _ = text.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return f"{shown(text)!r} is not an http(s) URL"
    if not text.isprintable() or text != text.strip():
        return f"{shown(text)!r} is not a URL: it has spaces or control characters around or in it"
    try:
        found = _parsed(text)
    except LocationParseError:
        return f"{shown(text)!r} is not a URL: check its host and its port, a number from 1 to 65535"
    if not found.host:
        return f"{shown(text)!r} is not a URL: it has no host"
    if found.port == 0:
        return f"{shown(text)!r} is not a URL: 0 is not a port"
    return None


def host_of(address: str) -> str:
    """Return the host of a valid address, without the brackets of IPv6."""
    return (_parsed(address).host or "").strip("[]")


def port_of(address: str) -> int | None:
    """Return the port of a valid address, where it names one."""
    return _parsed(address).port


def host_and_port(host: str, port: int) -> str:
    """Return `HOST:PORT` as URLs have it: IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _parsed(address: str) -> Url:
    found = parse_url(address)
    if found.host is not None and any(letter.isspace() for letter in found.host):
        raise LocationParseError(address)
    return found
