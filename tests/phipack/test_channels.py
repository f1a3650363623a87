"""`promote`, `rollback`, `history` and `diff` as a team has them: lists of promoters, overrides, what changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from devtools.bundles import make_bundle, make_evidence
from registry.ledger.ledger import open_ledger
from registry.ledger.registration import Registration
from registry.store.folder import FolderStore
from targets.errors import ProjectError
from targets.project import load_project
from targets.references import Version
from tests.support.command_line import result_of, run_in

PROJECT = """\
model = "phi"
version = "1.0.0"
checkpoint = "absent"

[[cells]]
target = "iphone-15"
recipe = "gguf-q4_0"

[channels.production]
promoters = ["alice", "release-bot@ci-1"]
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with releases 1.0.0 (passes), 1.1.0 (passes) and 1.2.0 (fails) of two cells, and their bundles."""
    folder = tmp_path_factory.mktemp("released")
    home = folder / ".phipack"
    store = FolderStore(home / "store")
    ledger = open_ledger(f"sqlite:///{home}/mlflow.db", store)
    for version, kl_mean in (("1.0.0", 0.01), ("1.1.0", 0.03), ("1.2.0", 0.2)):
        bundle = make_bundle(folder / version, {"model.gguf": version.encode() * 100})
        store.add_bundle(bundle)
        for cell in ("iphone-15", "pixel-9"):
            evidence = make_evidence(bundle, target=cell, kl_mean=kl_mean)
            ledger.register(Registration("phi", Version.parse(version), cell, bundle.manifest, evidence))
    return folder


@pytest.fixture
def team(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it with a project file; alice is at the keyboard."""
    shutil.copytree(released, tmp_path / "team")
    (tmp_path / "team" / "phipack.toml").write_text(PROJECT, "utf-8")
    monkeypatch.setenv("LOGNAME", "alice")
    return tmp_path / "team"


def test_the_project_files_list_is_enforced_and_told(team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phipack = run_in(team)
    done = phipack("promote", "phi:1.0.0", "--to", "production")
    assert "allowed by promoters alice, release-bot@ci-1" in done.stdout
    monkeypatch.setenv("LOGNAME", "eve")
    for arguments in (
        ("promote", "phi:1.1.0", "--to", "production"),
        ("promote", "phi:1.2.0", "--to", "production", "--override", "--reason", "please"),
        ("rollback", "phi"),
    ):
        refused = phipack(*arguments, expect=1).stderr
        assert "may not move channel production: its promoters are alice, release-bot@ci-1" in refused
        assert "[channels.production] in phipack.toml" in refused
    phipack("promote", "phi:1.1.0", "--to", "staging")
    rows = result_of(phipack("--json", "ls", "phi"))["versions"]
    assert {row["version"]: row["channels"] for row in rows} == {
        "1.0.0": ["production"],
        "1.1.0": ["staging"],
        "1.2.0": [],
    }
    staging, production = result_of(phipack("--json", "history", "phi"))["moves"]
    assert production["promoters"] == ["alice", "release-bot@ci-1"]
    assert production["user"].startswith("alice@")
    assert staging["promoters"] is None


def test_another_folder_lifts_no_list(team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_in(team)("promote", "phi:1.0.0", "--to", "production")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "phipack.toml").write_text(PROJECT.replace('"phi"', '"other"').replace("alice", "eve"), "utf-8")
    monkeypatch.setenv("LOGNAME", "eve")
    monkeypatch.setenv("HOME", str(tmp_path))
    place = ("--tracking-uri", f"sqlite:///{team}/.phipack/mlflow.db", "--store", str(team / ".phipack/store"))
    phipack = run_in(elsewhere)
    refused = phipack("promote", "phi:1.1.0", "--to", "production", *place, expect=1).stderr
    assert "kept since the promotion of 1.0.0 to production" in refused
    wrong = phipack("promote", "phi:1.1.0", "--to", "production", *place, "--project", "phipack.toml", expect=2).stderr
    assert "is of model other, not of phi" in wrong


def test_a_project_file_that_is_wrong_stops_a_promotion(team: Path) -> None:
    (team / "phipack.toml").write_text(PROJECT.replace("promoters", "promotors"), "utf-8")
    refused = run_in(team)("promote", "phi:1.0.0", "--to", "production", expect=1).stderr
    assert "phipack.toml:10: channels.production.promotors: unknown key" in refused
    assert "did you mean 'promoters'" in refused
    assert "unknown key" in run_in(team)("ls", "phi", expect=1).stderr  # it may be what says where the registry is
    (team / "phipack.toml").write_text(PROJECT, "utf-8")
    assert '"production"' not in run_in(team)("--json", "ls", "phi").stdout


def test_an_override_needs_its_reason_and_is_told(team: Path) -> None:
    phipack = run_in(team)
    phipack("promote", "phi:1.0.0", "--to", "production")
    assert "kl_mean is 0.2" in phipack("promote", "phi:1.2.0", "--to", "production", expect=3).stderr
    assert "--reason" in phipack("promote", "phi:1.2.0", "--to", "production", "--override", expect=2).stderr
    told = phipack("promote", "phi:1.2.0", "--to", "production", "--override", "--reason", "the demo").stdout
    assert "went ahead in spite of:\n  iphone-15: kl_mean is 0.2" in told
    text = phipack("history", "phi").stdout
    assert text.count("OVERRIDDEN") == 2
    assert "the demo" in text
    assert "promotion of 1.2.0 to production by alice@" in text
    newest, first = result_of(phipack("--json", "history", "phi"))["moves"]
    assert [row["cell"] for row in newest["overridden"]] == ["iphone-15", "pixel-9"]
    assert first["overridden"] == []
    (row,) = result_of(phipack("--json", "show", "phi:1.0.0@pixel-9"))["cells"]
    evidence = {cell["cell"]: cell["evidence_digest"] for cell in first["cells"]}["pixel-9"]
    assert evidence.removeprefix("sha256:")[:12] in text
    assert row["evidence"]["bundle"] == row["digest"]
    phipack("rollback", "phi", "--reason", "the demo is over")
    rows = result_of(phipack("--json", "ls", "phi"))["versions"]
    assert {row["version"] for row in rows if "production" in row["channels"]} == {"1.0.0"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            '"alice"',
            '"alice smith"',
            "phipack.toml:10: channels.production.promoters.0: 'alice smith' is not a valid name",
        ),
        ('"alice"', '""', "channels.production.promoters.0: '' is not a valid name"),
        ('["alice", "release-bot@ci-1"]', "[]", "channels.production.promoters: the list is empty"),
        ('"alice"', f'"{"x" * 65}"', "is not a valid name of a user"),
        ("channels.production", "channels.Production", "'Production' is neither a version, a range nor a channel"),
        ("channels.production", "channels.latest", "MLflow reserves this name"),
    ],
)
def test_lists_that_are_none_are_told_by_line_and_key(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "phipack.toml"
    path.write_text(PROJECT.replace(old, new), "utf-8")
    with pytest.raises(ProjectError) as caught:
        load_project(path)
    assert words in caught.value.problem
    assert caught.value.fix


def test_a_project_gives_its_lists(tmp_path: Path) -> None:
    path = tmp_path / "phipack.toml"
    path.write_text(PROJECT + "[channels.staging]\n", "utf-8")
    assert dict(load_project(path).roles.promoters) == {"production": ("alice", "release-bot@ci-1")}
    assert load_project(path).roles.source == str(path)


def test_diff_of_two_releases(team: Path) -> None:
    phipack = run_in(team)
    text = " ".join(phipack("diff", "phi:1.0.0", "phi:1.1.0").stdout.split())
    assert "phi:1.0.0@iphone-15 -> phi:1.1.0@iphone-15" in text
    assert "phi:1.0.0@pixel-9 -> phi:1.1.0@pixel-9" in text
    assert "model.gguf changed 500 B 500 B 0 B" in text
    assert "kl_mean 0.01 nat 0.03 nat +0.02 nat measured" in text
    one, other = result_of(phipack("--json", "diff", "phi:1.0.0", "phi:1.1.0"))["differences"]
    assert (one["cell"], other["cell"]) == ("iphone-15", "pixel-9")
    assert one["differs"]
    assert [(row["name"], row["change"]) for row in one["files"]] == [("model.gguf", "changed")]
    figures = {row["name"]: row for row in one["figures"]}
    assert figures["kl_mean"]["difference"] == pytest.approx(0.02)
    assert figures["kl_mean"]["before"]["value"] == 0.01
    assert "not a GGUF file" in one["tensors"]["problem"]


def test_diff_ends_as_git_does(team: Path) -> None:
    phipack = run_in(team)
    phipack("diff", "phi:1.0.0@pixel-9", "phi:1.1.0@pixel-9")
    assert "->" in phipack("diff", "phi:1.0.0@pixel-9", "phi:1.1.0@pixel-9", "--exit-code", expect=1).stdout
    same = phipack("diff", "phi:1.0.0@pixel-9", "phi:1.0.0@iphone-15", "--exit-code")
    assert "the same bundle" in same.stdout


def test_diff_of_folders_needs_no_registry(team: Path, tmp_path: Path) -> None:
    for name in ("1.0.0", "1.1.0"):
        shutil.copytree(team / name, tmp_path / "bare" / name)
    phipack = run_in(tmp_path / "bare")
    (found,) = result_of(phipack("--json", "diff", "./1.0.0", "./1.1.0", "--no-tensors"))["differences"]
    assert found["tensors"] is None
    assert found["figures"] == []
    assert sorted(path.name for path in (tmp_path / "bare").iterdir()) == ["1.0.0", "1.1.0"]
    assert "not a bundle" in phipack("diff", "./1.0.0", "./nowhere", expect=1).stderr


def test_diff_of_a_folder_and_a_version(team: Path) -> None:
    phipack = run_in(team)
    phipack("diff", "./1.0.0", "phi:1.0.0@pixel-9", "--exit-code")
    assert "2 cells" in phipack("diff", "./1.0.0", "phi:1.1.0", expect=1).stderr
