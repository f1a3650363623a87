"""Signing keys of a catalog: a folder that is never published, and the root metadata that lists the keys.

    KEYS/
      keys.json            public: where each key's private half is (`file2:targets-ab34.pem`, `awskms:…`); expiry
      1.root.json, …       public: TUF's root metadata, each version signed by the one before it and by itself
      .gitignore           all of it
      ROLE-KEYID.pem       private, PKCS #8, mode 600; only where no other signer was given

Roles are TUF's: `root` lists all keys and is needed to change them, keep it offline; `targets` signs what is published;
`snapshot` and `timestamp` sign that it is the newest. A private half is given by a URI of securesystemslib, so it may
be in a KMS or HSM; the folder's files are the simplest of its signers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from registry.files.atomic import remove_unfinished, write_atomically
from registry.files.lock import file_lock
from registry.files.lock_wait import LockWait
from registry.files.staging import disk_errors, staged_folder
from targets.errors import KeysError
from targets.progress import Progress, silent
from targets.strict_json import parse_model
from targets.this_user import user_name

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer
    from tuf.api.metadata import Metadata, Root

Role = Literal["root", "targets", "snapshot", "timestamp"]
ROLES: tuple[Role, ...] = get_args(Role)
LONGEST_DAYS = 36_500
EXPIRY_DAYS: dict[Role, int] = {"root": 365, "targets": 90, "snapshot": 30, "timestamp": 30}
_KEYS_NAME = "keys.json"
_LOCK_SECONDS = 600.0  # a signer in a KMS or HSM may ask a person
_FILE_SCHEME = "file2:"


class _Keys(BaseModel):
    """`keys.json`. `signers`: URI of the private half, by key ID."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["phipack.keys/1"] = Field("phipack.keys/1", alias="schema")
    expiry_days: dict[Role, Annotated[int, Field(gt=0, le=LONGEST_DAYS)]]
    signers: dict[str, str]


@dataclass(frozen=True)
class GivenKey:
    """A key that is kept elsewhere: its signer's URI, and the PEM file of its public half."""

    uri: str
    public: Path


@dataclass(frozen=True)
class KeyNeeds:
    """How many keys a role has, and how many of them must sign. `given`: those that exist already."""

    count: int = 1
    threshold: int = 1
    given: Sequence[GivenKey] = ()


ONE_KEY = KeyNeeds()


@dataclass(frozen=True)
class KeyFolder:
    """A folder of keys, read. `roots`: every version of the root metadata, oldest first."""

    path: Path
    keys: _Keys
    roots: tuple[Metadata[Root], ...]

    @property
    def root(self) -> Metadata[Root]:
        """The newest root metadata."""
        return self.roots[-1]

    def expiry(self, role: Role, now: datetime) -> datetime:
        """Return when metadata of a role that is signed now expires: whole seconds, UTC."""
        return (now + timedelta(days=self.keys.expiry_days[role])).replace(microsecond=0)

    def require_valid_root(self, now: datetime) -> None:
        """Raise `KeysError` where the root has expired: then clients refuse every catalog, whatever is signed now."""
        if self.root.signed.expires <= now:
            raise KeysError(
                f"the root in {self.path} expired on {self.root.signed.expires:%Y-%m-%d}: clients refuse all that is"
                " signed with it",
                fix=f"sign it again with the root's keys, then publish: phipack keys show --renew --keys {self.path}",
            )

    def warnings(self, now: datetime) -> list[str]:
        """Return what must be said of the root: that it has expired, or will when a quarter of its term is left."""
        expires, term = self.root.signed.expires, timedelta(days=self.keys.expiry_days["root"])
        renewal = f"phipack keys show --renew --keys {self.path}, then publish"
        if expires <= now:
            return [f"the root expired on {expires:%Y-%m-%d}: clients refuse all catalogs; sign it again: {renewal}"]
        if expires - now < term / 4:
            return [f"the root expires on {expires:%Y-%m-%d}, in {(expires - now).days} days; sign it again: {renewal}"]
        return []

    def sign(self, role: Role, metadata: Metadata[Any]) -> bytes:
        """Sign with every available key of the role. Raises `KeysError` where there are too few."""
        return _signed(self, metadata, (role, self.root))


def create_keys(
    folder: Path, needs: Mapping[Role, KeyNeeds], expiry_days: Mapping[Role, int] | None = None
) -> KeyFolder:
    """Create a folder of keys and the first root metadata.

    Args:
        folder: must not exist.
        needs: by role; by default one new key, which must sign.
        expiry_days: by role; by default `EXPIRY_DAYS`.

    Raises:
        KeysError: a given key can't be read, or can't sign, or there are fewer keys than must sign; or an expiry is no
            number of days up to `LONGEST_DAYS`.
        BuildError: the folder exists or can't be written.
    """
    from tuf.api.metadata import Metadata, Root

    if (folder / _KEYS_NAME).exists():
        raise KeysError(
            f"{folder} holds keys already; without them, nothing can be published to phones that trust them",
            fix="name another folder, or rotate these: phipack keys rotate ROLE",
        )
    for role, days in (expiry_days or {}).items():
        if not 0 < days <= LONGEST_DAYS:
            raise KeysError(f"{role}: its metadata can't be good for so many days", fix=f"choose 1 to {LONGEST_DAYS}")
    with staged_folder(folder, mode=0o700) as staging:
        signers: dict[str, str] = {}
        root = Root(consistent_snapshot=True)
        for role in ROLES:
            _add_keys(root, role, needs.get(role, ONE_KEY), staging, signers)
        keys = _Keys(schema="phipack.keys/1", expiry_days={**EXPIRY_DAYS, **(expiry_days or {})}, signers=signers)
        made = KeyFolder(staging, keys, (Metadata(root),))
        root.expires = made.expiry("root", datetime.now(UTC))
        write_atomically(staging / "1.root.json", made.sign("root", made.root))
        _write_keys(staging, keys)
        write_atomically(staging / ".gitignore", b"*\n")
    return open_keys(folder)


def open_keys(folder: Path) -> KeyFolder:
    """Read a folder of keys. Raises `KeysError` where it is not one, or a file of it is missing or damaged."""
    from tuf.api.exceptions import RepositoryError

    path, newest = folder / _KEYS_NAME, _newest_root(folder)
    roots: list[Metadata[Root]] = []
    try:
        keys = parse_model(_Keys, path.read_bytes())
        for version in range(1, max(1, newest) + 1):
            path = folder / f"{version}.root.json"
            roots.append(_read_root(path, version))
    except (OSError, ValueError, RepositoryError) as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError) and path.name == _KEYS_NAME and newest == 0:
            raise KeysError(f"{folder} holds no keys", fix=f"create some: phipack keys init --keys {folder}") from error
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise KeysError(
            f"{path} can't be read: {reason}",
            fix="restore it from a copy, as phones trust no other keys; a catalog that was published has the roots,"
            " too: metadata/N.root.json",
        ) from error
    return KeyFolder(folder, keys, tuple(roots))


def _newest_root(folder: Path) -> int:
    """Return the highest version of the root among a folder's files; 0 where there is none."""
    versions = [path.name.removesuffix(".root.json") for path in folder.glob("*.root.json")]
    return max((int(version) for version in versions if version.isdecimal()), default=0)


def _read_root(path: Path, version: int) -> Metadata[Root]:
    """Read a version of the root. Raises `ValueError` where the file holds something else, `RepositoryError`."""
    from tuf.api.metadata import Metadata, Root

    root = Metadata[Root].from_bytes(path.read_bytes())
    if not isinstance(root.signed, Root) or root.signed.version != version:
        raise ValueError(f"it is {root.signed.type} metadata, version {root.signed.version}")
    return root


def rotate(folder: KeyFolder, role: Role, need: KeyNeeds | None = None, *, on_progress: Progress = silent) -> KeyFolder:
    """Replace all keys of a role by new ones, in a new version of the root, and write that.

    `need`: by default as many as before. The new root is signed by the old root keys and the new ones, as TUF requires.
    Signatures by the old keys are no longer valid once the new root is published. Private halves of the old keys stay
    where they are: their owner may remove them. `on_progress` receives a notice of whom it waits for.

    Raises:
        KeysError: too few of the root's keys are available, or there are fewer new keys than must sign.
    """
    import copy

    old = folder.root.signed
    if need is None:
        need = KeyNeeds(len(old.roles[role].keyids), old.roles[role].threshold)
    root = copy.deepcopy(old)
    signers = dict(folder.keys.signers)
    for keyid in list(root.roles[role].keyids):
        root.revoke_key(keyid, role)
    with _changing(folder, on_progress):
        _add_keys(root, role, need, folder.path, signers)
        return _next_root(folder, root, signers)


def renew_root(folder: KeyFolder, *, on_progress: Progress = silent) -> KeyFolder:
    """Write a new version of the root with the same keys and a later expiry. Raises `KeysError`."""
    import copy

    with _changing(folder, on_progress):
        return _next_root(folder, copy.deepcopy(folder.root.signed), dict(folder.keys.signers))


@contextmanager
def _changing(folder: KeyFolder, on_progress: Progress) -> Iterator[None]:
    """Keep out others who change the folder. Raises `KeysError` where one of them did since it was read."""
    lock = folder.path / ".lock"
    on_wait = LockWait(user_name(), _LOCK_SECONDS, KeysError, on_progress=on_progress).reporter(
        "another phipack", str(lock)
    )
    with disk_errors(folder.path, KeysError), file_lock(lock, mode=0o600, on_wait=on_wait, removed=True):
        newest = open_keys(folder.path).root.signed.version
        if newest != folder.root.signed.version:
            raise KeysError(
                f"{folder.path} has root {newest} since another process changed it: {folder.root.signed.version} was"
                " read",
                fix="look at it with phipack keys show, then run the same command again if it is still wanted",
            )
        yield


def _next_root(folder: KeyFolder, root: Root, signers: dict[str, str]) -> KeyFolder:
    from tuf.api.metadata import Metadata

    remove_unfinished(folder.path)  # it may be half of a private key
    root.version += 1
    root.expires = folder.expiry("root", datetime.now(UTC))
    metadata = Metadata(root)
    keys = folder.keys.model_copy(update={"signers": signers})
    after = KeyFolder(folder.path, keys, (*folder.roots, metadata))
    content = _signed(after, metadata, ("root", folder.root), ("root", metadata))
    # The signers first: a root whose keys can't be found would end the catalog.
    _write_keys(folder.path, keys)
    write_atomically(folder.path / f"{root.version}.root.json", content)
    return open_keys(folder.path)


def _signed(folder: KeyFolder, metadata: Metadata[Any], *by: tuple[Role, Metadata[Root]]) -> bytes:
    """Sign with the available keys of each (role, root that lists its keys). Raises `KeysError` below a threshold."""
    from tuf.api.exceptions import UnsignedMetadataError

    metadata.signatures.clear()
    for role, root in by:
        keyids = root.signed.roles[role].keyids
        problems = []
        for keyid in keyids:
            try:
                metadata.sign(_signer(folder, root.signed.keys[keyid]), append=True)
            except UnsignedMetadataError as error:
                problems.append(f"key {keyid[:8]}: {error.__cause__ or error}")
            except KeysError as error:
                problems.append(error.problem)
        if len(keyids) - len(problems) < (threshold := root.signed.roles[role].threshold):
            raise KeysError(
                f"{role}: {threshold} of {len(keyids)} keys must sign, and {len(keyids) - len(problems)} can: "
                + "; ".join(problems),
                fix=f"put private keys where {folder.path / _KEYS_NAME} says, or log in to the service that holds them",
            )
    return metadata.to_bytes()


def _signer(folder: KeyFolder, key: Key) -> Signer:
    from securesystemslib.exceptions import Error
    from securesystemslib.signer import Signer

    uri = folder.keys.signers.get(key.keyid)
    if uri is None:
        raise KeysError(
            f"no signer is known for key {key.keyid[:8]}", fix=f"add its URI to signers in {folder.path / _KEYS_NAME}"
        )
    is_file, place = uri.startswith(_FILE_SCHEME), (folder.path / uri.removeprefix(_FILE_SCHEME)).absolute()
    uri = f"{_FILE_SCHEME}{place}" if is_file else uri
    fix = f"put the key there, or correct its URI in {folder.path / _KEYS_NAME}"
    try:
        return _of_file(place, key) if is_file else Signer.from_priv_key_uri(uri, key)
    except FileNotFoundError as error:  # its text is the library's own, about its settings
        raise KeysError(f"{uri}: no such file", fix=fix) from error
    except OSError as error:
        raise KeysError(f"{uri}: {error.strerror or error}", fix=fix) from error
    except (ValueError, TypeError, Error) as error:
        raise KeysError(f"{uri}: {error or type(error).__name__}", fix=fix) from error


def _of_file(path: Path, key: Key) -> Signer:
    """Return the signer of a file, as securesystemslib does, whose URI ends a path at `#` and at `?`."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner, SSlibKey

    if not isinstance(key, SSlibKey):
        raise ValueError(f"a key of type {key.keytype} is in no file")  # noqa: TRY004 - its caller's one error
    return CryptoSigner(load_pem_private_key(path.read_bytes(), None), key)  # compares the two halves


def _add_keys(root: Root, role: Role, need: KeyNeeds, folder: Path, signers: dict[str, str]) -> None:
    """Add the role's keys to the root. Raises `KeysError` where there are fewer than must sign."""
    for key in _new_keys(folder, role, need, signers):
        root.add_key(key, role)
    if not 0 < need.threshold <= len(root.roles[role].keyids):
        raise KeysError(
            f"{role}: {need.threshold} keys must sign, and it has {len(root.roles[role].keyids)}",
            fix="use more keys, or a lower threshold",
        )
    root.roles[role].threshold = need.threshold


def _new_keys(folder: Path, role: Role, need: KeyNeeds, signers: dict[str, str]) -> list[Key]:
    """Return the role's keys, create those that are not given, and record in `signers` where they are."""
    from securesystemslib.signer import CryptoSigner

    keys: list[Key] = []
    for given in need.given:
        key = _public_key(given.public)
        signers[key.keyid] = given.uri
        keys.append(key)
    for _ in range(need.count - len(need.given)):
        made = CryptoSigner.generate_ed25519()
        name = f"{role}-{made.public_key.keyid[:8]}.pem"
        write_atomically(folder / name, made.private_bytes, mode=0o600)
        signers[made.public_key.keyid] = _FILE_SCHEME + name
        keys.append(made.public_key)
    return keys


def _public_key(path: Path) -> Key:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        return SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise KeysError(
            f"{path} is not a public key in PEM: {reason}", fix="export the public half of the signer's key as PEM"
        ) from error


def _write_keys(folder: Path, keys: _Keys) -> None:
    write_atomically(folder / _KEYS_NAME, (keys.model_dump_json(by_alias=True, indent=2) + "\n").encode())
