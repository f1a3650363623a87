"""The common options: before the command and after it, and where a registry is found without them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest

from phipack.api.arguments import as_gates
from phipack.commands import cli
from phipack.options import State
from targets.errors import PhipackError, ProjectError
from tests.support.checkpoints import write_tiny
from tests.support.command_line import PROJECT, InProcess
from tests.support.strangers import as_root, shared, strangers

SETTINGS = """
[registry]
tracking_uri = "sqlite:///{folder}/team.db"
store = "bundles"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a project file that says where its registry is."""
    for name in ("PHIPACK_STORE", "MLFLOW_TRACKING_URI", "PHIPACK_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "phipack.toml").write_text(PROJECT + SETTINGS.format(folder=tmp_path))
    return tmp_path


def state_of(*arguments: str) -> State:
    """Parse a command line without running it."""
    state = State()
    with cli.make_context("phipack", list(arguments), obj=state) as context:
        name, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        with command.make_context(name, rest, parent=context):
            return state


def places(state: State) -> tuple[str, str]:
    return state.tracking_uri, state.store


def test_the_project_file_here_says_it(here: Path) -> None:
    assert places(state_of("ls")) == (f"sqlite:///{here}/team.db", "bundles")


def test_the_project_file_in_a_folder_above_says_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "deep" / "down").mkdir(parents=True)
    monkeypatch.chdir(here / "deep" / "down")
    state = state_of("ls")
    assert places(state) == (f"sqlite:///{here}/team.db", str(here / "bundles"))
    assert state.home == here / ".phipack"


def test_a_project_file_above_a_repository_is_not_the_repositorys(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "repository" / ".git").mkdir(parents=True)
    (here / "repository" / "src").mkdir()
    monkeypatch.chdir(here / "repository" / "src")
    assert state_of("ls").project_file is None
    (here / "repository" / "phipack.toml").write_text(PROJECT)
    assert state_of("ls").project_file == here / "repository" / "phipack.toml"


@pytest.mark.parametrize("before", [True, False])
def test_another_project_file_says_it_where_it_is_named(here: Path, before: bool) -> None:
    (here / "other").mkdir()
    (here / "other" / "phipack.toml").write_text(PROJECT + '\n[registry]\nstore = "s3://models/phi"\n')
    named = ("--project", "other/phipack.toml")
    state = state_of(*named, "ls") if before else state_of("ls", *named)
    assert state.store == "s3://models/phi"
    assert state.tracking_uri == f"sqlite:///{here}/other/.phipack/mlflow.db"


def test_keys_lie_in_the_projects_folder_too(here: Path, command: InProcess) -> None:
    (here / "other").mkdir()
    (here / "other" / "phipack.toml").write_text(PROJECT)
    made = command("keys", "init", "--project", "other/phipack.toml", "--json").document["result"]
    assert made["path"] == "other/.phipack/keys"


def test_option_and_environment_come_first(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIPACK_STORE", "s3://team/store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    assert places(state_of("ls")) == ("https://mlflow.example", "s3://team/store")
    assert places(state_of("--store", "mine", "ls")) == ("https://mlflow.example", "mine")
    assert places(state_of("ls", "--tracking-uri", "http://x", "--store", "mine")) == ("http://x", "mine")


def test_the_option_after_the_command_wins(here: Path) -> None:
    assert state_of("--store", "outer", "ls", "--store", "inner").store == "inner"
    assert state_of("--store", "outer", "ls").store == "outer"


def test_without_a_project_file_it_is_in_this_folder(here: Path) -> None:
    (here / "phipack.toml").unlink()
    assert places(state_of("ls")) == (f"sqlite:///{here}/.phipack/mlflow.db", ".phipack/store")


@pytest.mark.parametrize("content", ["model = ", PROJECT + '\n[registry]\nstores = "bundles"\n'])
def test_a_wrong_project_file_is_refused_by_what_needs_it(here: Path, content: str, command: InProcess) -> None:
    """A misspelt key of [registry] too: another registry would be read."""
    (here / "phipack.toml").write_text(content)
    with pytest.raises(ProjectError, match=r"phipack\.toml:\d+:"):
        _ = state_of("ls").tracking_uri
    for arguments in (
        ["ls"],
        ["promote", "tiny:1.0.0", "--to", "production"],
        ["release"],
        ["gc"],
        ["history", "tiny"],
    ):
        assert "phipack.toml:" in command(*arguments, expect=1).stderr
    command("targets", "ls")
    command("ls", "--tracking-uri", f"sqlite:///{here}/x.db", "--store", "store")
    assert "nothing.toml" not in command("fetch", "./nowhere", "-o", "out", expect=1).stderr
    assert not (here / ".phipack").exists()


def test_release_takes_the_project_file_in_every_way(here: Path, command: InProcess) -> None:
    (here / "phipack.toml").write_text(PROJECT)
    for arguments in (["release"], ["release", "phipack.toml"], ["--project", "phipack.toml", "release"]):
        assert "checkpoint" in command(*arguments, expect=1).stderr
    (here / "phipack.toml").unlink()
    assert "--project FILE" in command("release", expect=1).stderr
    assert "nowhere.toml" in command("release", "nowhere.toml", expect=1).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "targets", "ls"],
        ["targets", "--json", "ls"],
        ["targets", "ls", "--json"],
    ],
)
def test_json_works_before_and_after_each_word(command: InProcess, arguments: list[str]) -> None:
    document = command(*arguments).document
    assert (document["schema"], document["ok"], document["command"]) == ("phipack.cli/1", True, "targets ls")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json", "--quiet", "ls"],
        ["--json", "ls", "--quiet"],
        ["--quiet", "ls", "--verbose"],
        ["--verbose", "ls", "--quiet"],
    ],
)
def test_what_contradicts_itself_is_wrong_usage(command: InProcess, arguments: list[str]) -> None:
    done = command(*arguments, expect=2)
    assert "exclude one another" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["publish", "phi", "--refresh"], "--refresh publishes nothing new: it takes no MODEL"),
        (["publish", "--refresh", "--rollout", "100"], "it takes no --rollout"),
        (["publish", "--refresh", "--no-deltas"], "it takes no --deltas"),
        (["publish", "--refresh", "--drop", "pixel-9"], "it takes no --drop"),
        (["serve", "--pages-host", "0.0.0.0"], "without --pages-port no pages are served: it takes no --pages-host"),
        (
            ["measure", "b", "--device", "adb:", "--text", "t"],
            "nothing is compared: it takes no --text",
        ),
        (["measure", "b", "--device", "adb:", "--adapter", "a"], "it takes no --adapter"),
        (["inspect", "checkpoint", "--verify"], "--verify reads a bundle, and checkpoint is a checkpoint"),
        (["inspect", "checkpoint", "--plot", "p.svg"], "--plot draws a bundle, and checkpoint is a checkpoint"),
        (
            ["keys", "rotate", "root", "--threshold", "targets=2/3"],
            "the keys of root are replaced, and those of",
        ),
        (["keys", "rotate", "root", "--signer", "targets=a,b"], "leave targets=… out"),
        (["keys", "init", "--threshold", "root=2/3", "--threshold", "root=1/3"], "--threshold names root twice"),
        (["keys", "init", "--expires", "root=20", "--expires", "root=200"], "--expires names root twice"),
        (
            ["validate", "b", "--against", "checkpoint", "--gate", "kl_mean<=1e-9", "--gate", "kl_mean<=9"],
            "--gate: kl_mean has two gates: <= 1e-09 and <= 9; keep one of the two",
        ),
    ],
)
def test_what_would_not_be_read_is_wrong_usage(command: InProcess, arguments: list[str], words: str) -> None:
    write_tiny(Path("checkpoint"))
    done = command(*arguments, expect=2)
    assert words in " ".join(done.stderr.split())
    assert not Path(".phipack").exists()


def test_two_gates_on_a_figure_are_refused_in_python_too() -> None:
    with pytest.raises(PhipackError, match="kl_mean has two gates"):
        as_gates(["kl_mean<=0.1", "same_top_share>=0.9", "kl_mean<=9"])


def test_every_command_takes_every_common_option() -> None:
    def leaves(group: click.Group, path: str) -> list[tuple[str, click.Command]]:
        found: list[tuple[str, click.Command]] = []
        for name, member in group.commands.items():
            found += (
                leaves(member, f"{path} {name}") if isinstance(member, click.Group) else [(f"{path} {name}", member)]
            )
        return found

    common = {"--project", "--tracking-uri", "--store", "--json", "--quiet", "--verbose", "--log-file"}
    for path, command in leaves(cli, "phipack"):
        opts = [opt for param in command.params for opt in param.opts]
        assert common <= set(opts), path
        assert len(opts) == len(set(opts)), path


def test_verbose_says_what_is_read_and_for_how_long(here: Path, command: InProcess) -> None:
    said = command("ls", "--verbose").stderr
    assert f"registry: sqlite:///{here}/team.db" in said
    assert "store: bundles" in said
    assert "phipack ls: exit code 0, " in said
    assert command("ls").stderr == ""


def test_a_log_has_everything_with_time_stamps(here: Path, command: InProcess) -> None:
    done = command("ls", "--log-file", "phipack.log")
    assert done.stderr == ""
    text = (here / "phipack.log").read_text()
    assert all(line[:4].isdigit() and line[23] == "Z" for line in text.splitlines())
    assert "nothing is registered" in text
    assert f"registry: sqlite:///{here}/team.db" in text
    command("--log-file", "phipack.log", "show", "tiny:1.0.0", expect=1)
    added = (here / "phipack.log").read_text().removeprefix(text)
    assert "Traceback (most recent call last)" in added
    assert "no model 'tiny' is registered" in added
    assert "exit code 1" in added


def test_a_log_keeps_no_password(command: InProcess, tmp_path: Path) -> None:
    command("targets", "ls", "--tracking-uri", "http://alice:secret@mlflow.example", "--log-file", "log")
    assert "phipack targets ls --tracking-uri http://alice:***@mlflow.example" in (tmp_path / "log").read_text()


def test_a_log_that_cannot_be_written_is_said(command: InProcess) -> None:
    assert "--log-file" in command("ls", "--log-file", "nowhere/phipack.log", expect=1).stderr


@pytest.mark.parametrize("option", ["--log-file", "-o"])
def test_an_output_that_is_no_regular_file_is_refused_before_any_work(
    command: InProcess, tmp_path: Path, option: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    words = ("ls",) if option == "--log-file" else ("validate", "nothing", "--against", "nothing")
    for path, said in (("pipe", "is a pipe, not a regular file"), ("/dev/full", "is no file of its own")):
        done = command(*words, option, path, expect=1)
        assert said in done.stderr
        assert "fix: " in done.stderr
    for words in (
        ("build", "nothing", "--recipe", "gguf-q8_0"),
        ("export", "nothing"),
        ("convert", "nothing", "--layout", "llama"),
        ("fetch", "./nothing"),
        ("split", "nothing", "--max-part-bytes", "1MB"),
        ("join", "nothing"),
    ):
        for path in ("pipe", "/dev/full"):
            assert "is no folder" in command(*words, "-o", path, expect=2).stderr, words
    assert "is no folder" in command("keys", "init", "--keys", "pipe", expect=2).stderr


def test_a_folder_whose_name_is_too_long_is_no_defect(command: InProcess) -> None:
    assert "name" in command("fetch", "./nothing", "-o", "x" * 300, expect=1).stderr
    done = command("build", "nothing", "--recipe", "gguf-q8_0", "-o", "x" * 300, expect=1)
    assert "nothing is not a folder" in done.stderr


@as_root
def test_a_project_that_a_stranger_put_into_a_shared_folder_is_refused(
    command: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybodys = shared(tmp_path / "everybodys")
    (everybodys / "mine").mkdir()
    strangers_project = everybodys / "phipack.toml"
    strangers_project.write_text("")
    strangers(strangers_project)
    monkeypatch.chdir(everybodys / "mine")
    assert "in a folder that everybody may write" in command("ls", expect=1).stderr
    strangers_project.unlink()
    assert "nothing is registered" in command("ls").stdout
    (everybodys / ".phipack").mkdir()
    strangers(everybodys / ".phipack")
    monkeypatch.chdir(everybodys)
    for words in (("ls",), ("keys", "show")):
        assert "in a folder that everybody may write" in command(*words, expect=1).stderr
    assert "in a folder that everybody may write" in command("doctor", expect=1).stdout


def test_a_misspelt_command_and_option_get_the_nearest(command: InProcess) -> None:
    assert "Did you mean 'promote'" in command("promot", expect=2).stderr
    assert "--verbose" in command("ls", "--verbos", expect=2).stderr
    assert json.loads(command("ls", "--verbos", "--json", expect=2).stdout)["error"]["fix"] == "phipack ls --help"
