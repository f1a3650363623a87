"""`keys`: the keys that sign a catalog."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack.options import State, keys_option, pass_state
from phipack.output import table

if TYPE_CHECKING:
    from registry.catalog.signing import KeyFolder, KeyNeeds, Role

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
@click.option(
    "--expires", "expiries", multiple=True, metavar="ROLE=DAYS", help="How long a role's signature is good for."
)
@keys_option
@pass_state
def init(
    state: State, thresholds: tuple[str, ...], signers: tuple[str, ...], expiries: tuple[str, ...], keys: Path
) -> None:
    """Make a folder of keys, and the root that phones are to trust."""
    from registry.catalog.signing import create_keys

    made = create_keys(keys, _needs(thresholds, signers), {role: _days(text) for role, text in _by_role(expiries)})
    state.output.result(
        _keys_data(made),
        f"{_keys_text(made)}\n\n{keys / '1.root.json'} is what phones are to trust: ship it in the app."
        f"\nKeep the root's keys off-line; none of {keys} belongs in a store or in git, but *.root.json.",
    )


@keys.command()
@click.argument("role", type=click.Choice(ROLE_NAMES))
@click.option("--threshold", "thresholds", multiple=True, metavar="ROLE=M/N", help="As for init; as before by default.")
@click.option("--signer", "signers", multiple=True, metavar="ROLE=URI,PEM", help="As for init.")
@keys_option
@pass_state
def rotate(state: State, role: Role, thresholds: tuple[str, ...], signers: tuple[str, ...], keys: Path) -> None:
    """Give a role new keys, in a new root that the old root's keys sign. Publish afterwards: the old ones then end."""
    from registry.catalog.signing import open_keys
    from registry.catalog.signing import rotate as rotate_role

    needs = _needs(thresholds, signers)
    made = rotate_role(open_keys(keys), role, needs.get(role))
    state.output.result(
        _keys_data(made),
        f"{_keys_text(made)}\n\nPublish now, at least with --refresh: until then phones go by the old keys.",
    )


@keys.command()
@click.option("--renew", is_flag=True, help="Sign the root anew first, with a later expiry.")
@keys_option
@pass_state
def show(state: State, renew: bool, keys: Path) -> None:
    """Show the roles, their keys and where these are, and when the root expires."""
    from registry.catalog.signing import open_keys, renew_root

    opened = open_keys(keys)
    opened = renew_root(opened) if renew else opened
    state.output.result(_keys_data(opened), _keys_text(opened))


def _needs(thresholds: tuple[str, ...], signers: tuple[str, ...]) -> dict[Role, KeyNeeds]:
    from registry.catalog.signing import GivenKey, KeyNeeds

    given: dict[Role, list[GivenKey]] = {}
    for role, text in _by_role(signers):
        uri, comma, public = text.rpartition(",")
        if not comma or not uri:
            raise click.UsageError(f"--signer {role}={text}: write ROLE=URI,PUBLIC.pem")
        given.setdefault(role, []).append(GivenKey(uri, Path(public)))
    needs: dict[Role, KeyNeeds] = {role: KeyNeeds(len(keys), 1, tuple(keys)) for role, keys in given.items()}
    for role, text in _by_role(thresholds):
        least, _, count = text.partition("/")
        if not least.isdigit() or not count.isdigit():
            raise click.UsageError(f"--threshold {role}={text}: write ROLE=M/N, as root=2/3")
        needs[role] = KeyNeeds(int(count), int(least), tuple(given.get(role, ())))
    return needs


def _by_role(texts: tuple[str, ...]) -> list[tuple[Role, str]]:
    found: list[tuple[Role, str]] = []
    for text in texts:
        role, equals, value = text.partition("=")
        if not equals or role not in ROLE_NAMES:
            raise click.UsageError(f"{text!r}: write ROLE=…, with ROLE one of {', '.join(ROLE_NAMES)}")
        found.append((role, value))
    return found


def _days(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 36500:
        raise click.UsageError(f"--expires: {text!r} is no number of days")
    return int(text)


def _keys_data(folder: KeyFolder) -> dict[str, object]:
    root = folder.root.signed
    return {
        "keys": str(folder.path),
        "root": {"version": root.version, "expires": root.expires.isoformat()},
        "roles": {
            role: {
                "threshold": root.roles[role].threshold,
                "expiry_days": folder.keys.expiry_days[role],
                "keys": {keyid: folder.keys.signers.get(keyid) for keyid in root.roles[role].keyids},
            }
            for role in ROLE_NAMES
        },
    }


def _keys_text(folder: KeyFolder) -> str:
    root = folder.root.signed
    rows = [
        (
            role,
            f"{root.roles[role].threshold} of {len(root.roles[role].keyids)}",
            f"{folder.keys.expiry_days[role]} days",
            keyid[:8],
            folder.keys.signers.get(keyid, "not known here"),
        )
        for role in ROLE_NAMES
        for keyid in root.roles[role].keyids
    ]
    return (
        f"root {root.version}, good until {root.expires:%Y-%m-%d} UTC"
        f"\n\n{table(('role', 'must sign', 'good for', 'key', 'signer'), rows)}"
    )
