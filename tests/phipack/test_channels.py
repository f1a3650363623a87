"""`promote`, `rollback`, `history` and `diff` as a team has them: lists of promoters, overrides, what changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import phipack as phipack_api
from devtools.bundles import make_bundle, make_evidence
from registry.ledger.ledger import open_ledger
from registry.ledger.registration import Registration
from registry.store.folder import FolderStore
from targets.errors import ProjectError
from targets.project import load_project
from targets.references import Version
from tests.support.command_line import Run, document_of, result_of, run_in
from tests.support.registrations import client_of

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


def test_the_project_files_list_is_enforced_and_shown(team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phipack = run_in(team)
    done = phipack("promote", "phi:1.0.0", "--to", "production")
    assert "allowed by its list of promoters: alice, release-bot@ci-1" in done.stdout
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


def test_an_override_needs_its_reason_and_is_shown(team: Path) -> None:
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
        ("channels.production", "channels.Production", "'Production' is not a valid name of a channel"),
        ("channels.production", "channels.latest", "MLflow reserves this name"),
    ],
)
def test_lists_that_are_none_are_reported_by_line_and_key(tmp_path: Path, old: str, new: str, words: str) -> None:
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


def elsewhere(team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in a folder without a project file, run by eve."""
    (tmp_path / "bare").mkdir()
    monkeypatch.setenv("LOGNAME", "eve")
    place = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{team}/.phipack/mlflow.db",
        "PHIPACK_STORE": str(team / ".phipack/store"),
    }
    return run_in(tmp_path / "bare", place)


def test_the_list_of_a_release_holds_from_anywhere(team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first promotion, in a folder without the project file."""
    registry = phipack_api.Registry.from_project(team / "phipack.toml")
    registry.plan_release("phi:1.1.0", ["iphone-15", "pixel-9"])
    phipack = elsewhere(team, tmp_path, monkeypatch)
    for arguments in (
        ("promote", "phi:1.1.0", "--to", "production"),
        ("rollback", "phi"),
        ("retire", "phi@pixel-9", "--from", "production"),
    ):
        refused = phipack(*arguments, expect=1).stderr
        assert "its promoters are alice, release-bot@ci-1 (noted by the release of 1.1.0)" in refused
    assert "phipack release" in refused
    phipack("promote", "phi:1.1.0", "--to", "staging")  # which nobody has listed
    own = PROJECT.replace("alice", "eve").replace("1.0.0", "1.1.0")
    (tmp_path / "bare/phipack.toml").write_text(own, "utf-8")  # a file at hand widens nothing
    refused = phipack("promote", "phi:1.1.0", "--to", "production", expect=1).stderr
    assert "noted by the release of 1.1.0" in refused
    monkeypatch.setenv("LOGNAME", "alice")
    assert (
        "[channels.production] in phipack.toml"
        in phipack("promote", "phi:1.1.0", "--to", "production", expect=1).stderr
    )
    (tmp_path / "bare/phipack.toml").unlink()
    done = phipack("promote", "phi:1.1.0", "--to", "production")  # it is a name, no proof: what docs say
    assert "allowed by its list of promoters: alice, release-bot@ci-1" in done.stdout


def test_the_newest_release_has_the_last_word_on_lists(
    team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(version: str, text: str) -> None:
        (team / "phipack.toml").write_text(text, "utf-8")
        phipack_api.Registry.from_project(team / "phipack.toml").plan_release(
            f"phi:{version}", ["iphone-15", "pixel-9"]
        )

    note("1.1.0", PROJECT)
    note("1.0.0", PROJECT.replace("alice", "eve"))  # a late job of an older version
    phipack = elsewhere(team, tmp_path, monkeypatch)
    assert "noted by the release of 1.1.0" in phipack("promote", "phi:1.0.0", "--to", "production", expect=1).stderr
    note("1.2.0", PROJECT[: PROJECT.index("[channels")])
    assert "no list of promoters is set for production" in phipack("promote", "phi:1.0.0", "--to", "production").stdout
    note("1.2.0", PROJECT)
    assert "noted by the release of 1.2.0" in phipack("promote", "phi:1.1.0", "--to", "production", expect=1).stderr


@pytest.mark.parametrize(("slip", "meant"), [("prodution", "production"), ("stagnig", "staging"), ("betta", "beta")])
def test_a_channel_that_is_nearly_another_one_is_not_made(team: Path, slip: str, meant: str) -> None:
    phipack = run_in(team)
    phipack("promote", "phi:1.0.0", "--to", "beta")
    refused = phipack("promote", "phi:1.0.0", "--to", slip, "--reason", "first release", expect=1).stderr
    assert f"phi has no channel {slip!r}; nothing was moved" in refused
    assert f"fix: did you mean {meant!r}? If a new channel is meant: --new-channel" in refused
    failed = document_of(phipack("--json", "promote", "phi:1.0.0", "--to", slip, expect=1))
    assert failed["error"]["kind"] == "RegistryError"
    rows = result_of(phipack("--json", "ls", "phi"))["versions"]
    assert {name for row in rows for name in row["channels"]} == {"beta"}
    done = phipack("promote", "phi:1.0.0", "--to", slip, "--new-channel").stdout
    assert f"promotion of 1.0.0 to {slip} (new channel of phi); no list of promoters is set for {slip}" in done


def test_a_new_channel_is_called_new_once(team: Path) -> None:
    phipack = run_in(team)
    first = result_of(phipack("--json", "promote", "phi:1.0.0", "--to", "web"))
    second = result_of(phipack("--json", "promote", "phi:1.1.0", "--to", "web"))
    assert (first["new_channel"], second["new_channel"]) == (True, False)
    newest, oldest = result_of(phipack("--json", "history", "phi"))["moves"]
    assert (newest["new_channel"], oldest["new_channel"]) == (False, True)
    assert "new channel" not in phipack("promote", "phi:1.0.0", "--to", "web").stdout


def test_a_misspelt_channel_has_nothing_to_take_back(team: Path) -> None:
    phipack = run_in(team)
    phipack("promote", "phi:1.0.0", "--to", "production")
    for command in (("rollback", "phi", "--channel", "prodution"), ("retire", "phi@pixel-9", "--from", "prodution")):
        refused = phipack(*command, expect=1).stderr
        assert "phi has no channel 'prodution'" in refused
        assert "did you mean 'production'?" in refused


def test_a_cell_is_retired_and_comes_back(team: Path) -> None:
    phipack = run_in(team)
    phipack("promote", "phi:1.0.0", "--to", "production")
    done = phipack("retire", "phi@pixel-9", "--from", "production", "--reason", "too slow there")
    assert "retirement of pixel-9 from production" in done.stdout
    (newest, _) = result_of(phipack("--json", "history", "phi"))["moves"]
    assert (newest["kind"], newest["reason"]) == ("retirement", "too slow there")
    assert [(part["cell"], part["before"]["version"], part["after"]) for part in newest["cells"]] == [
        ("pixel-9", "1.0.0", None)
    ]
    text = phipack("promote", "phi:1.1.0@iphone-15", "--to", "production").stdout
    assert "left alone" not in text
    refused = phipack("retire", "phi@pixel-9", "--from", "production", expect=1).stderr
    assert "does not point at a version of cell pixel-9, but at iphone-15" in refused
    assert "phipack publish phi --channel production --drop pixel-9" in refused
    for wrong in ("phi", "phi:1.0.0@pixel-9", "phi:production@pixel-9"):
        assert "is not a cell" in phipack("retire", wrong, "--from", "production", expect=1).stderr
    assert "nothing of these cells" not in phipack("rollback", "phi").stdout
    phipack("rollback", "phi")
    rows = result_of(phipack("--json", "ls", "phi"))["versions"]
    assert {(row["cell"], row["version"]) for row in rows if row["channels"]} == {
        ("iphone-15", "1.0.0"),
        ("pixel-9", "1.0.0"),
    }


def test_the_first_promotion_is_taken_back_where_that_is_asked_for(team: Path) -> None:
    phipack = run_in(team)
    phipack("promote", "phi:1.0.0", "--to", "production")
    refused = phipack("rollback", "phi", expect=1).stderr
    assert "to take back the first: phipack rollback phi --channel production --empty" in refused
    text = phipack("rollback", "phi", "--empty", "--reason", "not yet").stdout
    assert "production has nothing of these cells now, and the next publish takes them from phones: iphone-15" in text
    assert all(row["channels"] == [] for row in result_of(phipack("--json", "ls", "phi"))["versions"])
    assert "--empty" not in phipack("rollback", "phi", "--empty", expect=1).stderr


def test_cells_that_a_release_does_not_have_are_named(team: Path) -> None:
    phipack = run_in(team)
    phipack("promote", "phi:1.0.0", "--to", "production")
    store = FolderStore(team / ".phipack/store")
    ledger = open_ledger(f"sqlite:///{team}/.phipack/mlflow.db", store)
    bundle = make_bundle(team / "2.0.0", {"model.gguf": b"2.0.0"})
    store.add_bundle(bundle)
    ledger.register(Registration("phi", Version(2, 0, 0), "pixel-9", bundle.manifest, make_evidence(bundle)))
    moved = phipack("--json", "promote", "phi:2.0.0", "--to", "production")
    (unmoved,) = result_of(moved)["unmoved"]
    assert (unmoved["cell"], unmoved["at"]["version"]) == ("iphone-15", "1.0.0")
    assert result_of(phipack("--json", "history", "phi"))["moves"][0]["unmoved"] == [unmoved]
    again = phipack("promote", "phi:2.0.0", "--to", "production").stdout
    assert "left alone, as the release does not have them: iphone-15 (stays at 1.0.0)" in again


def test_what_was_deleted_in_mlflow_is_missed_and_what_was_retired_is_not(team: Path) -> None:
    phipack = run_in(team)
    phipack("keys", "init")
    phipack("promote", "phi:1.0.0", "--to", "production")
    phipack("publish", "phi", "--to", "web", "--new-catalog")
    phipack("retire", "phi@pixel-9", "--from", "production")
    assert "no longer in the channel: pixel-9" in phipack("publish", "phi", "--to", "web").stdout
    ledger = open_ledger(f"sqlite:///{team}/.phipack/mlflow.db", FolderStore(team / ".phipack/store"))
    client_of(ledger).delete_model_version("phi.iphone-15", "1")
    refused = phipack("publish", "phi", "--to", "web", expect=1).stderr
    assert "published with cells that it does not point at any more: iphone-15 (1.0.0)" in refused
    dropped = result_of(phipack("--json", "publish", "phi", "--to", "web", "--drop", "iphone-15"))
    assert (dropped["dropped"], dropped["cells"]) == (["iphone-15"], [])
