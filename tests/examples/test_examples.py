"""Every example runs as its docstring says, on a tiny checkpoint.

In this process, as `python FILE ARGUMENTS` would run it: a process of its own spends its time on importing torch,
transformers and MLflow again. `fetch_in_backend.py`, which imports none of them, runs as a process.
"""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

import pytest

import phipack
from devtools.catalogs import Publisher
from devtools.servers import RangeHandler, serving
from registry.store.folder import FolderStore
from tests.support.command_line import PROJECT, called, command_environment, write_project

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|transformers|onnx|google|coremltools).*")
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(folder: Path, name: str, *arguments: str, expect: int = 0) -> CompletedProcess[str]:
    """Run an example in a folder, in this process, and hold it to an exit code."""

    def program() -> int:
        with mock.patch.object(sys, "argv", [name, *arguments]), pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return int(ended.value.code or 0)

    return called(program, folder, {"PHIPACK_STATE": str(folder / "state")}, expect=expect)


def run_as_process(folder: Path, name: str, *arguments: str, expect: int = 0) -> CompletedProcess[str]:
    """The same in a process of its own, as a user who has phipack installed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env=command_environment() | {"PYTHONPATH": str(ROOT), "PHIPACK_STATE": str(folder / "state")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    "name", ["build_and_validate.py", "custom_gate.py", "custom_target.py", "device_gate.py", "fetch_in_backend.py"]
)
def test_an_example_without_its_arguments_says_how_it_is_run(name: str) -> None:
    with mock.patch.object(sys, "argv", [name]), pytest.raises(SystemExit, match=rf"python examples/{name} [A-Za-z]"):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_shows_how_it_is_run(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 60
    assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(text)) or "")


@pytest.fixture
def here(tmp_path: Path, tiny_folder: Path, migrated_database: Path) -> Path:
    """A folder with a project file, its tiny checkpoint and an empty registry."""
    return write_project(tmp_path / "here", tiny_folder, migrated_database)


def test_build_and_validate(here: Path) -> None:
    done = run(here, "build_and_validate.py", "checkpoint", "bundle")
    assert "pass  kl_mean" in done.stdout
    assert (here / "bundle" / "manifest.json").is_file()
    again = run(here, "build_and_validate.py", "checkpoint", "bundle", expect=1)
    assert "fix:" in again.stderr


def test_release_and_promote(here: Path) -> None:
    done = run(here, "release_and_promote.py")
    assert "iphone-15: to build" in done.stdout
    assert "promotion of 1.0.0 to candidate: galaxy-s24, iphone-15" in done.stdout
    strict = PROJECT.replace("1.0.0", "1.1.0").replace("at_most = 0.5", "at_most = 1e-9")
    (here / "phipack.toml").write_text(strict, "utf-8")
    assert "iphone-15: kl_mean" in run(here, "release_and_promote.py", expect=3).stderr


def test_fetch_in_backend(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path)
    first = publisher.release("1.0.0")
    publisher.publish()
    assert isinstance(publisher.place, FolderStore)
    with serving(tmp_path / "web", kind=RangeHandler) as url:
        arguments = (url, "phi:production@iphone-15", "served", str(publisher.root))
        assert "now phi:1.0.0@iphone-15" in run_as_process(tmp_path, "fetch_in_backend.py", *arguments).stdout
        assert run_as_process(tmp_path, "fetch_in_backend.py", *arguments).stdout == ""
        assert (tmp_path / "served" / "manifest.json").read_bytes() == first.manifest.to_bytes()
        second = publisher.release("1.1.0")
        publisher.publish()
        assert "now phi:1.1.0@iphone-15" in run_as_process(tmp_path, "fetch_in_backend.py", *arguments).stdout
    assert "kept as it is" in run_as_process(tmp_path, "fetch_in_backend.py", *arguments).stderr  # the server is gone
    assert (tmp_path / "served" / "manifest.json").read_bytes() == second.manifest.to_bytes()


def test_custom_target(here: Path) -> None:
    done = run(here, "custom_target.py", "checkpoint", "kiosk")
    assert "fits on our kiosk's board" in done.stdout
    assert "has no runtime for onnx" in done.stdout


def test_custom_gate(here: Path) -> None:
    phipack.build(here / "checkpoint", "gguf-q8_0", here / "bundle", target="iphone-15")
    arguments = ("custom_gate.py", "checkpoint", "bundle")
    assert "phi:1.0.0@iphone-15 is the candidate" in run(here, *arguments, "phi:1.0.0@iphone-15", "0").stdout
    refused = run(here, *arguments, "phi:1.1.0@iphone-15", "1.1", expect=3)
    assert "iphone-15: ended_share is" in refused.stderr


def test_device_gate() -> None:
    """The A16's promised 12 token/s: not met by nothing, nor by a claim unless the gate accepts it."""
    done = run(EXAMPLES, "device_gate.py", str(EXAMPLES / "a16/phipack.toml"), str(EXAMPLES / "a16/published.json"))
    for cell in ("iphone-14-pro", "iphone-15"):
        assert f"{cell}, nothing measured: FAIL: device_decode_tokens_per_second is not known" in done.stdout
        assert f"{cell}, claims refused: FAIL" in done.stdout
        assert f"{cell}, claims accepted: pass: device_decode_tokens_per_second is 12" in done.stdout
    assert "claimed by published in arXiv 2404.14219" in done.stdout
    assert "phipack measure BUNDLE --device DEVICE" in done.stdout
