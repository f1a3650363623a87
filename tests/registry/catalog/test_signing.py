"""Folders of keys: what they hold, who must sign, and what is said where that fails."""

from __future__ import annotations

import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tuf.api.metadata import Metadata, Snapshot, Targets

from registry.catalog.signing import GivenKey, KeyFolder, KeyNeeds, create_keys, open_keys, renew_root, rotate
from targets.errors import BuildError, KeysError


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    """A key a role."""
    return create_keys(tmp_path / "keys", {})


def signs(keys: KeyFolder, role: str = "targets") -> bool:
    """True where what the folder signs now is what its newest root asks for."""
    metadata = Metadata[Targets].from_bytes(keys.sign(role, Metadata(Targets())))  # type: ignore[arg-type]
    return bool(keys.root.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures))


def test_private_keys_are_their_owners_alone(keys: KeyFolder) -> None:
    assert keys.path.stat().st_mode & 0o777 == 0o700
    private = list(keys.path.glob("*.pem"))
    assert len(private) == 4
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in private)
    assert (keys.path / ".gitignore").read_text() == "*\n"


def test_a_folder_with_keys_is_never_overwritten(keys: KeyFolder) -> None:
    before = (keys.path / "1.root.json").read_bytes()
    with pytest.raises(KeysError, match="holds keys already"):
        create_keys(keys.path, {})
    assert (keys.path / "1.root.json").read_bytes() == before


def test_two_of_three_must_sign_and_can(tmp_path: Path) -> None:
    keys = create_keys(tmp_path / "keys", {"targets": KeyNeeds(3, 2)})
    private = sorted(keys.path.glob("targets-*.pem"))
    private[0].unlink()
    assert signs(keys)
    private[1].unlink()
    with pytest.raises(KeysError, match=r"2 of 3 keys must sign, and 1 can: .*no such file") as error:
        signs(keys)
    assert "keys.json says" in str(error.value)


@pytest.mark.parametrize("need", [KeyNeeds(1, 2), KeyNeeds(2, 0)])
def test_a_threshold_that_nobody_can_meet_is_refused(tmp_path: Path, need: KeyNeeds) -> None:
    with pytest.raises(KeysError, match="keys must sign"):
        create_keys(tmp_path / "keys", {"root": need})
    assert list(tmp_path.iterdir()) == []


def test_a_rotation_to_a_threshold_that_nobody_can_meet_is_refused(keys: KeyFolder) -> None:
    with pytest.raises(KeysError, match="3 keys must sign, and it has 1"):
        rotate(keys, "targets", KeyNeeds(1, 3))
    assert len(open_keys(keys.path).roots) == 1
    assert signs(open_keys(keys.path))


def test_every_root_is_signed_by_the_one_before_it_and_by_itself(tmp_path: Path) -> None:
    keys = create_keys(tmp_path / "keys", {"root": KeyNeeds(3, 2)})
    keys = rotate(keys, "timestamp")
    keys = rotate(keys, "root", KeyNeeds(2, 2))
    keys = renew_root(keys)
    assert [root.signed.version for root in keys.roots] == [1, 2, 3, 4]
    for before, after in zip(keys.roots, keys.roots[1:], strict=False):
        for root in (before, after):
            assert root.signed.get_verification_result("root", after.signed_bytes, after.signatures)


def test_the_root_changes_only_with_the_roots_keys(keys: KeyFolder) -> None:
    for path in keys.path.glob("root-*.pem"):
        path.unlink()
    with pytest.raises(KeysError, match="root: 1 of 1 keys must sign, and 0 can"):
        rotate(keys, "targets")
    assert len(open_keys(keys.path).roots) == 1
    assert signs(open_keys(keys.path))


def test_a_key_that_is_kept_elsewhere_signs_by_its_uri(tmp_path: Path) -> None:
    """Any signer of securesystemslib's; here one of another kind, in another folder."""
    private = generate_private_key(SECP256R1())
    elsewhere = tmp_path / "hsm.pem"
    elsewhere.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = tmp_path / "public.pem"
    public.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    keys = create_keys(tmp_path / "keys", {"targets": KeyNeeds(given=(GivenKey(f"file2:{elsewhere}", public),))})
    assert list(keys.path.glob("targets-*.pem")) == []
    assert signs(keys)
    elsewhere.unlink()
    with pytest.raises(KeysError, match="no such file"):
        signs(keys)


@pytest.mark.parametrize("name", ["C# apps", "what?", "100%25", "a;b", "it's", "two\nlines"])
def test_keys_sign_whatever_their_folder_is_called(tmp_path: Path, name: str) -> None:
    assert signs(create_keys(tmp_path / name / "keys", {}))


def test_the_file_of_another_key_does_not_sign(keys: KeyFolder) -> None:
    (own,), (other,) = keys.path.glob("targets-*.pem"), keys.path.glob("snapshot-*.pem")
    own.write_bytes(other.read_bytes())
    with pytest.raises(KeysError, match="private key does not match public key"):
        signs(keys)


def test_a_signer_that_is_not_known_is_said(tmp_path: Path, keys: KeyFolder) -> None:
    content = json.loads((keys.path / "keys.json").read_bytes())
    content["signers"] = dict.fromkeys(content["signers"], "nokms:key")
    (keys.path / "keys.json").write_text(json.dumps(content))
    with pytest.raises(KeysError, match="Unsupported private key scheme nokms"):
        signs(open_keys(keys.path))


def test_expiry_is_counted_in_days(tmp_path: Path) -> None:
    keys = create_keys(tmp_path / "keys", {}, {"timestamp": 3})
    now = datetime(2026, 11, 23, 12, 0, 0, 5, tzinfo=UTC)
    assert keys.expiry("timestamp", now) == datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)
    assert keys.root.signed.expires > datetime.now(UTC) + timedelta(days=364)


def test_a_folder_without_keys_is_said(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="holds no keys") as error:
        open_keys(tmp_path / "keys")
    assert "phipack keys init" in str(error.value)


@pytest.mark.parametrize("name", ["keys.json", "1.root.json", "2.root.json"])
@pytest.mark.parametrize("content", [None, b"{}", b"not json", "another root", "a snapshot"])
def test_a_file_that_is_lost_or_another_is_named_and_no_new_keys_are_proposed(
    keys: KeyFolder, name: str, content: bytes | str | None
) -> None:
    """Without 2.root.json, the newest root was the first one, and a rotation wrote its own and reported the third's."""
    rotate(rotate(keys, "timestamp"), "snapshot")
    path = keys.path / name
    if content is None:
        path.unlink()
    elif content == "another root":
        shutil.copy(keys.path / "3.root.json", path)
    elif content == "a snapshot":
        path.write_bytes(Metadata(Snapshot()).to_bytes())
    else:
        assert isinstance(content, bytes)
        path.write_bytes(content)
    with pytest.raises(KeysError, match=rf"{re.escape(name)} can't be read") as error:
        open_keys(keys.path)
    assert "restore it" in str(error.value)
    assert "init" not in str(error.value)


def test_a_public_key_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "public.pem").write_text("nothing")
    with pytest.raises(KeysError, match="not a public key in PEM"):
        create_keys(tmp_path / "keys", {"root": KeyNeeds(given=(GivenKey("awskms:x", tmp_path / "public.pem"),))})


def test_of_two_rotations_at_once_one_is_refused_and_no_key_is_lost(keys: KeyFolder) -> None:
    def one(_: int) -> str | None:
        try:
            rotate(keys, "timestamp")  # read by each before the other writes
        except KeysError as error:
            return error.problem
        return None

    with ThreadPoolExecutor(4) as pool:
        said = [problem for problem in pool.map(one, range(4)) if problem is not None]
    assert len(said) == 3
    assert all("another process changed it" in problem for problem in said)
    assert open_keys(keys.path).root.signed.version == 2
    assert signs(open_keys(keys.path), "timestamp")


def test_of_two_who_create_the_same_keys_one_is_refused(tmp_path: Path) -> None:
    start = threading.Barrier(2)

    def one(_: int) -> KeyFolder | None:
        start.wait(30)
        try:
            return create_keys(tmp_path / "shared", {})
        except (KeysError, BuildError):
            return None

    with ThreadPoolExecutor(2) as pool:
        (made,) = [folder for folder in pool.map(one, range(2)) if folder is not None]
    assert open_keys(tmp_path / "shared").root.to_dict() == made.root.to_dict()
