"""Checks of a published catalog: when the signatures of each role expire, after which phones refuse all of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from phipack.diagnosis.check import Check, failed
from registry.catalog.published_state import published_root, read_published
from registry.catalog.signing import EXPIRY_DAYS, ROLES, Role, open_keys
from registry.store.uris import open_store
from targets.errors import KeysError, PhipackError
from targets.formatting import count


def check_catalog(place: str, keys: Path, *, is_named: bool) -> Iterator[Check]:
    """Yield one check for each role of the catalog at a place. Its signatures are not verified, and nothing is created.

    Args:
        place: the catalog: a folder or an S3 URI.
        keys: the folder of its keys, which says how long signatures are good for. Else the defaults count.
        is_named: a user has named the place, so a catalog must be there.
    """
    try:
        store = open_store(place)
        published = read_published(store, None)
        if published.tag is None:
            missing = Check("catalog", "fail", f"{store.uri} has no catalog", "name where it is with --catalog")
            yield missing if is_named else Check("catalog", "ok", f"{store.uri}: nothing is published")
            return
        expiries = {"root": published_root(store).signed.expires, **published.expiries}
    except PhipackError as error:
        yield failed("catalog", error)
        return
    terms, now = _terms(keys), datetime.now(UTC)
    refresh = f"phipack publish --refresh{f' --to {shlex.quote(place)}' if is_named else ''}"
    for role in ROLES:
        renewal = f"phipack keys show --renew --keys {shlex.quote(str(keys))}, then " if role == "root" else ""
        yield _check(role, expiries[role], timedelta(days=terms[role]), now, renewal + refresh)


def _check(role: Role, expires: datetime, term: timedelta, now: datetime, renewal: str) -> Check:
    """Warn when a quarter of the term is left, as `publish` does of the root."""
    name, when = f"catalog: {role}", f"{expires:%Y-%m-%d %H:%M} UTC"
    if expires <= now:
        return Check(name, "fail", f"expired on {when}: phones refuse the catalog", f"sign it again: {renewal}")
    found = f"expires on {when}, in {count((expires - now).days, 'day')}"
    if expires - now < term / 4:
        return Check(name, "warn", found, f"sign it again before then: {renewal}")
    return Check(name, "ok", found)


def _terms(keys: Path) -> Mapping[Role, int]:
    """Return for how many days each role's signatures are good."""
    try:
        return EXPIRY_DAYS | open_keys(keys).keys.expiry_days
    except KeysError:
        return EXPIRY_DAYS
