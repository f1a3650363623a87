"""Where the registry is: option, environment, project file, default; in this order."""

from __future__ import annotations

from pathlib import Path

import pytest

from phipack.commands import cli
from targets.errors import ProjectError
from tests.support.command_line import PROJECT

SETTINGS = """
[registry]
tracking_uri = "sqlite:///{folder}/team.db"
store = "bundles"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a project file that says where its registry is."""
    for name in ("PHIPACK_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "phipack.toml").write_text(PROJECT + SETTINGS.format(folder=tmp_path))
    return tmp_path


def params_of(*arguments: str) -> dict[str, str | None]:
    """What a command would go by."""
    with cli.make_context("phipack", list(arguments)) as context:
        name, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        with command.make_context(name, rest, parent=context) as inner:
            return {key: inner.params[key] for key in ("store", "tracking_uri")}


@pytest.mark.parametrize(
    "arguments",
    [("ls",), ("fetch", "phi", "-o", "x"), ("promote", "phi:1.0.0", "--to", "staging"), ("gc",), ("release",)],
)
def test_the_project_file_here_says_it(here: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    found = params_of(*arguments)
    assert found == {"store": "bundles", "tracking_uri": f"sqlite:///{here}/team.db"}


def test_another_project_file_says_it_where_it_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "other").mkdir()
    (here / "other" / "phipack.toml").write_text(PROJECT + '\n[registry]\nstore = "s3://models/phi"\n')
    for arguments in (
        ("promote", "phi:1.0.0", "--to", "staging", "--project", "other/phipack.toml"),
        ("release", "other/phipack.toml"),
        ("publish", "phi", "--project", "other/phipack.toml"),
    ):
        assert params_of(*arguments) == {"store": "s3://models/phi", "tracking_uri": None}


def test_option_and_environment_come_first(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIPACK_STORE", "s3://team/store")
    assert params_of("ls")["store"] == "s3://team/store"
    assert params_of("ls", "--store", "mine")["store"] == "mine"


def test_without_a_project_file_nothing_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "phipack.toml").unlink()
    assert params_of("ls") == {"store": None, "tracking_uri": None}


def test_a_project_file_that_is_none_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "phipack.toml").write_text("model = ")
    with pytest.raises(ProjectError, match=r"phipack\.toml can't be read"):
        params_of("ls")
    assert params_of("release")["store"] is None  # it reads the file itself, and says the line
