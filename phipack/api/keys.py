"""Keys that sign a catalog. Needs the base install."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from phipack.api.arguments import AnyPath, as_keys, as_path
from registry.catalog.signing import ROLES, GivenKey, KeyFolder, KeyNeeds, Role
from registry.catalog.signing import create_keys as create_folder
from registry.catalog.signing import renew_root as renew_folder_root
from registry.catalog.signing import rotate as rotate_role
from targets.errors import KeysError, did_you_mean
from targets.progress import Progress, silent

DEFAULT_KEYS = Path(".phipack/keys")


def create_keys(
    folder: AnyPath = DEFAULT_KEYS,
    *,
    thresholds: Mapping[Role, str] | None = None,
    signers: Mapping[Role, Iterable[str]] | None = None,
    expiry_days: Mapping[Role, int] | None = None,
) -> KeyFolder:
    """Make a folder of keys, and the root that phones trust: `1.root.json` in it.

    Args:
        folder: must not hold keys. It is never published.
        thresholds: by role, `M/N`: M of its N keys must sign. `1/1` by default.
        signers: by role, `URI,PEM` of each key that is kept elsewhere: the signer's URI (`awskms:…`, `file2:PATH`),
            and the file of its public half.
        expiry_days: by role, how long its signature is good for.

    Raises:
        KeysError: there is no such role; a key can't be read or can't sign, or there are fewer keys than must sign.
        BuildError: the folder exists or can't be written.
    """
    _require_roles(*(thresholds or ()), *(signers or ()), *(expiry_days or ()))
    wanted = {role: needs for role in ROLES if (needs := _needs(role, thresholds or {}, signers or {})) is not None}
    return create_folder(as_path(folder), wanted, expiry_days)


def open_keys(folder: AnyPath = DEFAULT_KEYS) -> KeyFolder:
    """Read a folder of keys. Raises `KeysError`."""
    return as_keys(folder)


def rotate_keys(
    role: Role,
    folder: AnyPath | KeyFolder = DEFAULT_KEYS,
    *,
    threshold: str | None = None,
    signers: Iterable[str] = (),
    on_progress: Progress = silent,
) -> KeyFolder:
    """Replace a role's keys, in a new root that the old root's keys sign. Publish afterwards: until then the old count.

    Args:
        role: `root`, `targets`, `snapshot` or `timestamp`.
        folder: of the keys.
        threshold: `M/N` as for `create_keys`; as before by default.
        signers: `URI,PEM` of each key that is kept elsewhere.
        on_progress: called with a notice of whom it waits for.

    Raises:
        KeysError: there is no such role; too few of the root's keys are at hand, or there are fewer new keys than must
            sign.
    """
    _require_roles(role)
    thresholds: dict[Role, str] = {} if threshold is None else {role: threshold}
    needs = _needs(role, thresholds, {role: tuple(signers)})
    return rotate_role(as_keys(folder), role, needs, on_progress=on_progress)


def renew_root(folder: AnyPath | KeyFolder = DEFAULT_KEYS, *, on_progress: Progress = silent) -> KeyFolder:
    """Sign the root again with a later expiry. `on_progress` as for `rotate_keys`. Raises `KeysError`."""
    return renew_folder_root(as_keys(folder), on_progress=on_progress)


def parse_threshold(text: str) -> tuple[int, int]:
    """Parse `2/3` as two of three. Raises `KeysError`."""
    least, _, count = text.partition("/")
    if not least.isdigit() or not count.isdigit():
        raise KeysError(f"{text!r} is not a threshold", fix="write M/N, such as 2/3: two of three keys must sign")
    return int(least), int(count)


def parse_signer(text: str) -> GivenKey:
    """Parse `URI,PUBLIC.pem`. Raises `KeysError`."""
    uri, comma, public = text.rpartition(",")
    if not comma or not uri:
        raise KeysError(f"{text!r} is not a signer", fix="write URI,PUBLIC.pem: where the key is, and its public half")
    return GivenKey(uri, Path(public))


def _require_roles(*names: str) -> None:
    """Refuse a role that is misspelt: what is asked of it would be left out."""
    for name in names:
        if name not in ROLES:
            raise KeysError(f"there is no role {name!r}", fix=did_you_mean(name, ROLES))


def _needs(role: Role, thresholds: Mapping[Role, str], signers: Mapping[Role, Iterable[str]]) -> KeyNeeds | None:
    given = tuple(parse_signer(text) for text in signers.get(role, ()))
    if role in thresholds:
        least, count = parse_threshold(thresholds[role])
        return KeyNeeds(count, least, given)
    return KeyNeeds(len(given), 1, given) if given else None
