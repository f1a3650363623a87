"""One strict reader of phipack.toml: what one command refuses, every command refuses, before it touches a registry."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from devtools.bundles import make_bundle
from registry.ledger.ledger import open_ledger
from registry.ledger.reader import open_reader
from registry.store.folder import FolderStore
from tests.support.command_line import run_in
from tests.support.registrations import entry

TEAM = """\
model = "phi"
version = "1.0.0"
checkpoint = "absent"

[[cells]]
target = "iphone-15"
recipe = "gguf-q4_0"

[registry]
tracking_uri = "sqlite:///{team}/mlflow.db"
store = "{team}/store"
"""
OLD = 1_000_000_000  # when everything in the team's store was added
COMMANDS = (
    ("gc",),
    ("gc", "--dry-run"),
    ("ls",),
    ("show", "phi:1.0.0"),
    ("history", "phi"),
    ("promote", "phi:1.0.0", "--to", "production"),
    ("retire", "phi@iphone-15", "--from", "production"),
    ("rollback", "phi"),
    ("diff", "phi:1.0.0", "phi:1.0.0"),
    ("fetch", "phi:1.0.0@iphone-15", "-o", "out"),
    ("publish", "phi", "--to", "web"),
    ("publish", "--refresh"),
    ("release",),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Path:
    """A team's registry with one version, and a project's own, which knows nothing of it."""
    folder = tmp_path_factory.mktemp("strict")
    for place in ("team", "project/.phipack"):
        (folder / place).mkdir(parents=True)
        shutil.copy(migrated_database, folder / place / "mlflow.db")
    store = FolderStore(folder / "team/store")
    bundle = make_bundle(folder / "bundle")
    store.add_bundle(bundle)
    open_ledger(f"sqlite:///{folder}/team/mlflow.db", store).register(entry(bundle))
    own = make_bundle(folder / "own", {"model.gguf": b"own"})
    store.add_bundle(own)  # else gc itself sees that nothing there is its registry's
    open_ledger(f"sqlite:///{folder}/project/.phipack/mlflow.db", store).register(entry(own))
    for blob in store.blobs():
        os.utime(store.location_of(blob.digest), (OLD, OLD))
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of it, with the team's project file."""
    shutil.copytree(made, tmp_path / "place", dirs_exist_ok=True)
    folder = tmp_path / "place"
    (folder / "project/phipack.toml").write_text(TEAM.format(team=folder / "team"), "utf-8")
    return folder


def held(place: Path) -> list[str]:
    return sorted(blob.digest for blob in FolderStore(place / "team/store").blobs())


def mangled(text: str, how: str) -> str:
    return {
        "a key of [registry]": text.replace("tracking_uri", "tracking-uri"),
        "a table": text.replace("[registry]", "[registri]"),
        "a key of the file": text.replace("checkpoint =", "chekpoint ="),
        "a key of a cell": text.replace("recipe =", "reciepe ="),
        "a type": text.replace('version = "1.0.0"', "version = 1.0"),
        "TOML": text.replace("[registry]", "[registry"),
    }[how]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("a key of [registry]", "phipack.toml:10: registry.tracking-uri: unknown key"),
        ("a table", "phipack.toml:9: registri: unknown key"),
        ("a key of the file", "phipack.toml:3: chekpoint: unknown key"),
        ("a key of a cell", "phipack.toml:7: cells.0.reciepe: unknown key"),
        ("a type", "phipack.toml:2: version: "),
        ("TOML", "phipack.toml:9: "),
    ],
)
def test_a_wrong_file_is_refused_by_every_command(place: Path, how: str, said: str) -> None:
    """`gc` above all: it read the project's own registry, and removed the team's blobs from the team's store."""
    file = place / "project/phipack.toml"
    file.write_text(mangled(file.read_text("utf-8"), how), "utf-8")
    before = held(place)
    phipack = run_in(place / "project")
    for arguments in COMMANDS:
        assert said in phipack(*arguments, expect=1).stderr, arguments
    assert held(place) == before
    assert sorted(path.name for path in (place / "project").iterdir()) == [".phipack", "phipack.toml"]


def test_a_mark_of_utf_8_is_read_by_all(place: Path) -> None:
    """Editors on Windows write it. What moved before was the alias in another registry."""
    file = place / "project/phipack.toml"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    phipack = run_in(place / "project")
    phipack("keys", "init")
    for arguments in (
        ("promote", "phi:1.0.0", "--to", "production"),
        ("gc", "--dry-run"),
        ("ls",),
        ("show", "phi:1.0.0"),
        ("history", "phi"),
        ("diff", "phi:1.0.0", "phi:1.0.0"),
        ("fetch", "phi:production@iphone-15", "-o", "out"),
        ("publish", "phi", "--to", "web", "--new-catalog"),
        ("retire", "phi@iphone-15", "--from", "production"),
        ("rollback", "phi"),
    ):
        phipack(*arguments)
    assert "absent" in phipack("release", expect=1).stderr  # read, as far as its checkpoint
    rows = {
        name: open_reader(f"sqlite:///{place}/{name}/mlflow.db", FolderStore(place / "team/store"))
        for name in ("team", "project/.phipack")
    }
    assert [row.channels for row in rows["team"].versions()] == [("production",)]
    assert [row.channels for row in rows["project/.phipack"].versions()] == [()]


@pytest.mark.parametrize("kind", ["a broken link", "a folder", "unreadable bytes"])
def test_a_file_that_can_not_be_read_is_not_taken_for_none(place: Path, kind: str) -> None:
    """Passed over, it would mean the registry in .phipack, or that of a project file further up."""
    file = place / "project/phipack.toml"
    file.rename(place / "phipack.toml")
    if kind == "a broken link":
        file.symlink_to(place / "nowhere.toml")
    elif kind == "a folder":
        file.mkdir()
    else:
        file.write_bytes(b"\xff\xfe")
    before = held(place)
    for arguments in COMMANDS:
        assert "phipack.toml: can't be read" in run_in(place / "project")(*arguments, expect=1).stderr, arguments
    assert held(place) == before
