"""Completion: what is offered where, by the scripts that the shells run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from devtools.bundles import make_bundle, make_evidence
from phipack.commands import cli
from phipack.options import State
from phipack.shell_scripts import Bash, script
from registry.ledger.ledger import open_ledger
from registry.ledger.registration import Registration
from registry.promotion import promote
from registry.store.folder import FolderStore
from targets.references import Reference, Version
from tests.support.command_line import PROJECT, InProcess, command_environment


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models: releases 1.0.0 (in production) and 1.1.0 of two cells, and another of one."""
    folder = tmp_path_factory.mktemp("registered")
    store = FolderStore(folder / ".phipack" / "store")
    ledger = open_ledger(f"sqlite:///{folder}/.phipack/mlflow.db", store)
    bundle = make_bundle(folder / "bundle", {"model.gguf": b"weights" * 100})
    store.add_bundle(bundle)
    for model, version, cell in (
        ("phi", "1.0.0", "iphone-15"),
        ("phi", "1.0.0", "pixel-9"),
        ("phi", "1.1.0", "iphone-15"),
        ("other", "2.0.0", "pixel-9"),
    ):
        evidence = make_evidence(bundle, target=cell)
        ledger.register(Registration(model, Version.parse(version), cell, bundle.manifest, evidence))
    promote(ledger, Reference.parse("phi:1.0.0"), "production", who="alice@host", why="")
    (folder / "phipack.toml").write_text(PROJECT, "utf-8")
    return folder


def offered(*words: str) -> list[str]:
    """What is offered for the last word."""
    *before, word = words
    return [one.value for one in ShellComplete(cli, {"obj": State()}, "phipack", "X").get_completions(before, word)]


@pytest.fixture
def here(registered: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(registered)
    return registered


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("prom",), ["promote"]),
        (("build", "x", "--recipe", "gguf-q4"), ["gguf-q4_0", "gguf-q4_k_m"]),
        (("build", "x", "--target", "iphone-16"), ["iphone-16", "iphone-16-pro"]),
        (("targets", "show", "pixel-9"), ["pixel-9"]),
        (("fit", "phi-3-mini"), ["phi-3-mini-4k-instruct", "phi-3-mini-128k-instruct"]),
        (("history", ""), ["other", "phi"]),
        (("publish", "ph"), ["phi"]),
        (("promote", "phi:"), ["phi:production", "phi:1.1.0", "phi:1.0.0"]),
        (("promote", "ph"), ["phi", "phi:production", "phi:1.1.0", "phi:1.0.0"]),
        (("show", "phi:1.1"), ["phi:1.1.0", "phi:1.1.0@iphone-15"]),
        (("fetch", "phi:production@"), ["phi:production@iphone-15", "phi:production@pixel-9"]),
        (("diff", "phi:1.0.0", "other@p"), ["other@pixel-9"]),
        (("promote", "phi:1.1.0", "--to", ""), ["candidate", "production", "staging"]),
        (("rollback", "phi", "--channel", "pro"), ["production"]),
        (("release", "--only", ""), ["iphone-15", "galaxy-s24"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
    ],
)
def test_it_offers_what_fits(here: Path, words: tuple[str, ...], found: list[str]) -> None:
    assert sorted(offered(*words)) == sorted(found)


def test_a_path_offers_folders(here: Path) -> None:
    (item,) = ShellComplete(cli, {"obj": State()}, "phipack", "X").get_completions(["fetch"], "./bun")
    assert item.type == "dir"


def test_the_registry_that_the_line_names_is_read(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert offered("history", "") == []
    uri = f"sqlite:///{here}/.phipack/mlflow.db"
    assert offered("--tracking-uri", uri, "history", "") == ["other", "phi"]
    assert offered("history", "--project", str(here / "phipack.toml"), "") == ["other", "phi"]


@pytest.mark.parametrize("content", [b"not a database", b""])
def test_what_goes_wrong_offers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    (tmp_path / ".phipack").mkdir()
    (tmp_path / ".phipack" / "mlflow.db").write_bytes(content)
    (tmp_path / "phipack.toml").write_text("model = ", "utf-8")
    assert offered("history", "") == []
    assert offered("release", "--only", "") == []
    assert capfd.readouterr() == ("", "")


def test_a_server_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert offered("history", "") == []


def test_no_heavy_package_is_imported(here: Path) -> None:
    program = (
        "import sys\n"
        "for name in ('mlflow', 'numpy', 'torch', 'onnx', 'boto3', 'rich'): sys.modules[name] = None\n"
        "from click.shell_completion import ShellComplete\n"
        "from phipack.commands import cli\n"
        "from phipack.options import State\n"
        "found = ShellComplete(cli, {'obj': State()}, 'phipack', 'X').get_completions(['fetch'], 'phi:prod')\n"
        "print([one.value for one in found])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=here, env=command_environment(), capture_output=True, text=True, check=True
    )
    assert "phi:production@pixel-9" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(command: InProcess, shell: str) -> None:
    text = command("completion", shell).stdout
    assert text.strip() == script(cli, shell).strip()
    assert "_PHIPACK_COMPLETE" in text
    assert command("--json", "completion", shell).document["result"]["script"] == script(cli, shell)


BASH = """
eval "$(phipack completion bash)"
COMP_LINE=$1; COMP_POINT=${#1}
_phipack_completion phipack
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("phipack prom", ["promote"]),
        ("phipack build x --recipe gguf-q4_k", ["gguf-q4_k_m"]),
        ("phipack build x --recipe=gguf-q4_k", ["gguf-q4_k_m"]),
        ("phipack show phi:1.1", ["1.1.0", "1.1.0@iphone-15"]),
        ("phipack fetch phi:production@", ["iphone-15", "pixel-9"]),
        ("phipack history ", ["other", "phi"]),
        ("phipack recipes ", []),
    ],
)
def test_bash_completes_whole_references(registered: Path, tmp_path: Path, line: str, found: list[str]) -> None:
    """In bash itself, which cuts words at colons and at signs."""
    program = tmp_path / "phipack"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m phipack "$@"\n')
    program.chmod(0o755)
    environment = command_environment()
    done = subprocess.run(
        ["bash", "--norc", "-O", "progcomp", "-c", BASH, "bash", line],
        cwd=registered,
        env=environment | {"PATH": f"{tmp_path}{os.pathsep}{environment['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert sorted(done.stdout.split()) == sorted(found), done.stderr


def test_the_scripts_word_is_what_bash_has_not_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Bash(click.Command("phipack"), {}, "phipack", "_PHIPACK_COMPLETE")
    monkeypatch.setenv("_PHIPACK_LINE", "phipack fetch phi:1.0.0@ip")
    monkeypatch.setenv("_PHIPACK_BREAKS", " \t\n")
    item = click.shell_completion.CompletionItem("phi:1.0.0@iphone-15")
    assert shell.format_completion(item) == "plain,phi:1.0.0@iphone-15"
    monkeypatch.setenv("_PHIPACK_BREAKS", " \t\n@=:")
    assert shell.format_completion(item) == "plain,iphone-15"
