"""`keys`: the keys that sign a catalog."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack.options import State, keys_option, pass_state
from phipack.tables import table
from targets.errors import KeysError

if TYPE_CHECKING:
    from registry.catalog.signing import KeyFolder, Role

ROLE_NAMES: tuple[Role, ...] = ("root", "targets", "snapshot", "timestamp")


@click.group()
def keys() -> None:
    """Make, rotate and show the keys that sign a catalog."""


@keys.command()
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="ROLE=M/N",
    help="M of N keys of a role must sign, as root=2/3. [default: 1/1]",
)
@click.option(
    "--signer",
    "signers",
    multiple=True,
    metavar="ROLE=URI,PEM",
    help="A key that is kept elsewhere: securesystemslib's URI of the signer (awskms:…, gcpkms:…, hsm:…, file2:PATH), "
    "and the file of its public half. May be repeated.",
)
@click.option("--expires", "expiries", multiple=True, metavar="ROLE=DAYS", help="How long a role's signature is valid.")
@keys_option
@pass_state
def init(
    state: State, thresholds: tuple[str, ...], signers: tuple[str, ...], expiries: tuple[str, ...], keys: Path
) -> None:
    """Make a folder of keys, and the root that phones trust."""
    from phipack.api.keys import create_keys

    made = create_keys(
        keys,
        thresholds=dict(_thresholds(thresholds)),
        signers=_signers(signers),
        expiry_days={role: _days(text) for role, text in _once("--expires", _by_role(expiries))},
    )
    _show(
        state,
        made,
        f"{keys / '1.root.json'} is the root that phones trust: ship it in the app."
        f"\nKeep the root's keys offline. Nothing in {keys} belongs in a store or in git, except *.root.json.",
    )


@keys.command()
@click.argument("role", type=click.Choice(ROLE_NAMES))
@click.option("--threshold", "thresholds", multiple=True, metavar="ROLE=M/N", help="As for init. [default: as before]")
@click.option("--signer", "signers", multiple=True, metavar="ROLE=URI,PEM", help="As for init.")
@keys_option
@pass_state
def rotate(state: State, role: Role, thresholds: tuple[str, ...], signers: tuple[str, ...], keys: Path) -> None:
    """Replace a role's keys, in a new root that the old root's keys sign.

    Publish afterwards: until then the old keys count.
    """
    from phipack.api.keys import rotate_keys

    for other, _ in (*_by_role(thresholds), *_by_role(signers)):
        if other != role:
            raise click.UsageError(f"the keys of {role} are replaced, and those of {other} stay: leave {other}=… out")
    threshold = dict(_thresholds(thresholds)).get(role)
    made = rotate_keys(
        role,
        keys,
        threshold=threshold,
        signers=_signers(signers).get(role, ()),
        on_progress=state.output.on_progress,
    )
    _show(state, made, "Publish now, at least with --refresh: until then phones accept the old keys.")


@keys.command()
@click.option("--renew", is_flag=True, help="Sign the root again first, with a later expiry.")
@keys_option
@pass_state
def show(state: State, renew: bool, keys: Path) -> None:
    """Show the roles, their keys and where these are, and when the root expires."""
    from phipack.api.keys import open_keys, renew_root

    _show(state, renew_root(keys, on_progress=state.output.on_progress) if renew else open_keys(keys))


def _show(state: State, folder: KeyFolder, *notes: str) -> None:
    from phipack.json_form.registry import keys_form

    state.output.result(keys_form(folder).data(), "\n\n".join([_text(folder), *notes]))
    for warning in folder.warnings(datetime.now(UTC)):
        state.output.note(warning)


def _thresholds(texts: tuple[str, ...]) -> list[tuple[Role, str]]:
    from phipack.api.keys import parse_threshold

    pairs = _once("--threshold", _by_role(texts))
    for role, text in pairs:
        try:
            parse_threshold(text)
        except KeysError as error:
            raise click.UsageError(f"--threshold {role}={text}: {error.fix}") from error
    return pairs


def _signers(texts: tuple[str, ...]) -> dict[Role, list[str]]:
    from phipack.api.keys import parse_signer

    found: dict[Role, list[str]] = {}
    for role, text in _by_role(texts):
        try:
            parse_signer(text)
        except KeysError as error:
            raise click.UsageError(f"--signer {role}={text}: {error.fix}") from error
        found.setdefault(role, []).append(text)
    return found


def _by_role(texts: tuple[str, ...]) -> list[tuple[Role, str]]:
    found: list[tuple[Role, str]] = []
    for text in texts:
        role, equals, value = text.partition("=")
        if not equals or role not in ROLE_NAMES:
            raise click.UsageError(f"{text!r}: write ROLE=…, with ROLE one of {', '.join(ROLE_NAMES)}")
        found.append((role, value))
    return found


def _once(option: str, pairs: list[tuple[Role, str]]) -> list[tuple[Role, str]]:
    """Return the pairs. Raises `click.UsageError` where a role has two: one of them would not count."""
    roles = [role for role, _ in pairs]
    for role in roles:
        if roles.count(role) > 1:
            raise click.UsageError(f"{option} names {role} twice: keep one of the two")
    return pairs


def _days(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 36500:
        raise click.UsageError(f"--expires: {text!r} is not a number of days")
    return int(text)


def _text(folder: KeyFolder) -> str:
    root = folder.root.signed
    rows = [
        (
            role,
            f"{root.roles[role].threshold} of {len(root.roles[role].keyids)}",
            f"{folder.keys.expiry_days[role]} days",
            keyid[:8],
            folder.keys.signers.get(keyid, "unknown here"),
        )
        for role in ROLE_NAMES
        for keyid in root.roles[role].keyids
    ]
    validity = "valid until" if root.expires > datetime.now(UTC) else "EXPIRED on"
    return (
        f"root {root.version}, {validity} {root.expires:%Y-%m-%d} UTC"
        f"\n\n{table(('role', 'must sign', 'good for', 'key', 'signer'), rows)}"
    )
