"""optimum's environment: created once and whole, whoever asks, whatever a user has set; or an error that helps.

Most tests install two empty packages from a folder: the same road without the downloads.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from builders.optimum_export import environment, optimum_environment
from builders.optimum_export.environment import environment_folder, is_complete
from targets.errors import BuildError, SetupError
from targets.installation import installed_version
from targets.progress import Event, Notice, silent
from tests.support.strangers import be_a_stranger

PINS = {"transformers": "4.0.1", "phipack-test-package": "1.2.3"}


def write_wheel(folder: Path, name: str, version: str) -> None:
    module = name.replace("-", "_")
    metadata = f"{module}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f"__version__ = {version!r}\n",
        f"{metadata}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{metadata}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{metadata}/RECORD"))
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        for path, content in (*files.items(), (f"{metadata}/RECORD", record)):
            wheel.writestr(path, content)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the packages that are pinned here, and no index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name, version in PINS.items():
        write_wheel(folder, name, version)
    monkeypatch.setattr(environment, "PINS", PINS)
    monkeypatch.setattr(environment, "_IMPORTS", "import transformers; print(transformers.__version__)")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def unpack(wheels: Path) -> Callable[[Path], None]:
    """Installs them without pip, which takes a second: where what is done before or after pip is tried."""

    def install(environment_folder: Path) -> None:
        packages = next(environment_folder.glob("lib/python3*/site-packages"))
        for wheel in wheels.iterdir():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(packages)

    return install


def left(cache: Path) -> list[str]:
    return [path.name for path in (cache / "optimum").iterdir() if path.suffix != ".lock"]


def test_what_another_user_could_have_put_there_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    python = environment_folder(tmp_path) / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ntouch {ran}\n")
    python.chmod(0o755)
    (tmp_path / "optimum").chmod(0o777)
    assert not is_complete(environment_folder(tmp_path))
    with pytest.raises(BuildError, match="written by everybody"):
        optimum_environment(tmp_path)
    (tmp_path / "optimum").chmod(0o700)
    be_a_stranger(monkeypatch)
    assert not is_complete(environment_folder(tmp_path))
    with pytest.raises(BuildError, match="belongs to"):
        optimum_environment(tmp_path)
    assert not ran.exists()


def test_the_pins_are_installed_and_the_rest_is_shared() -> None:
    folder = optimum_environment().parents[1]
    shared = {name: installed_version(name) for name in ("torch", "numpy", "onnx", "onnxruntime", "safetensors")}
    pins = {"transformers": "4.57.6", "huggingface_hub": "0.36.2", "tokenizers": "0.22.2"}
    assert environment._versions(folder) == {**pins, "optimum": "2.1.0", "optimum-onnx": "0.1.0", **shared}
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 200e6
    assert not list((folder / "lib").rglob("torch/__init__.py"))
    assert {path.name for path in (folder / "bin").iterdir()} <= {
        "python",
        "python3",
        "python3.11",
        "python3.12",
        "python3.13",
    }


def test_it_is_created_once_and_then_only_looked_at(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    python = optimum_environment(tmp_path / "cache", on_progress=events.append)
    assert [event.text.partition(" with")[0] for event in events if isinstance(event, Notice)] == [
        "creating an environment for optimum"
    ]
    monkeypatch.setattr(environment, "_create", lambda *_: pytest.fail("it was there"))
    assert optimum_environment(tmp_path / "cache", on_progress=lambda _: pytest.fail("it was there")) == python
    assert len(left(tmp_path / "cache")) == 1


def test_several_that_ask_at_once_create_it_once(
    unpack: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_install", unpack)
    created: list[Path] = []
    real = environment._create
    monkeypatch.setattr(environment, "_create", lambda folder, report: (created.append(folder), real(folder, report)))
    with ThreadPoolExecutor(4) as pool:
        pythons = list(pool.map(lambda _: optimum_environment(tmp_path / "cache"), range(4)))
    assert len(created) == len(set(pythons)) == 1


def test_a_damaged_one_is_created_again(
    unpack: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_install", unpack)
    python = optimum_environment(tmp_path / "cache")
    for damaged in ("METADATA", "python"):
        next(python.parents[1].rglob(f"*{damaged}")).unlink()
        assert optimum_environment(tmp_path / "cache") == python
        assert environment._versions(python.parents[1]) == environment._wanted()


def test_what_a_user_has_set_for_another_environment_does_not_reach_it(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "transformers.py").write_text("raise SystemExit('the user\\'s own')", "utf-8")
    (tmp_path / "constraints").write_text("transformers==5.24.0\n", "utf-8")
    (tmp_path / "path" / "json.py").write_text("raise SystemExit('the user\\'s own')", "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.setenv("PYTHONHOME", str(tmp_path / "path"))
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "target"))
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.chdir(tmp_path / "path")
    python = optimum_environment(tmp_path / "cache")
    assert environment._versions(python.parents[1]) == environment._wanted()
    assert not (tmp_path / "target").exists()
    assert {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "HF_TOKEN"}.isdisjoint(environment.quiet_environment())


def test_without_the_packages_it_says_how_to_bring_them(wheels: Path, tmp_path: Path) -> None:
    next(wheels.glob("phipack*")).unlink()
    with pytest.raises(SetupError, match=r"pip can't install .*phipack-test-package==1\.2\.3: ") as refused:
        optimum_environment(tmp_path / "cache")
    assert "PIP_FIND_LINKS=wheels" in refused.value.fix
    assert left(tmp_path / "cache") == []


def test_a_package_of_another_version_is_noticed_before_it_is_put_in_place(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_install", lambda _: None)
    with pytest.raises(
        SetupError, match=r"not as it should be: transformers 5\S+, not 4\.0\.1; phipack-test-package None"
    ):
        optimum_environment(tmp_path / "cache")
    assert left(tmp_path / "cache") == []


@pytest.mark.parametrize("how", ["interrupt", "full disk", "full disk in pip"])
def test_nothing_half_made_is_left(
    how: str, unpack: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(staging: Path, *arguments: str, **_: Any) -> CompletedProcess[str]:
        if arguments[:2] != ("-m", "pip"):
            return real(staging, *arguments)
        assert (staging / "bin" / "python").exists()
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "full disk":
            raise OSError(28, os.strerror(28))
        return CompletedProcess([], 1, "", "ERROR: Could not install packages: [Errno 28] No space left on device\n")

    real = environment._run
    monkeypatch.setattr(environment, "_run", fail)
    with pytest.raises(KeyboardInterrupt if how == "interrupt" else BuildError) as raised:
        optimum_environment(tmp_path / "cache")
    assert how == "interrupt" or "no space left" in str(raised.value)
    assert left(tmp_path / "cache") == []
    monkeypatch.setattr(environment, "_run", real)
    monkeypatch.setattr(environment, "_install", unpack)
    assert optimum_environment(tmp_path / "cache", on_progress=silent).is_file()


def test_phipacks_own_packages_must_be_there(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_own_folders", list)
    with pytest.raises(SetupError, match="does not find torch"):
        optimum_environment(tmp_path / "cache")
    monkeypatch.setattr(environment, "SHARED", ("no-such-package",))
    with pytest.raises(SetupError, match=r"optimum needs no-such-package, which phipack\[build\] brings") as refused:
        optimum_environment(tmp_path / "cache")
    assert "pip install" in refused.value.fix
    assert left(tmp_path / "cache") == []


def test_where_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHIPACK_CACHE", "~/own")
    assert environment.cache_folder() == Path.home() / "own"
    monkeypatch.delenv("PHIPACK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert environment.cache_folder() == tmp_path / "phipack"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert environment.cache_folder() == Path.home() / ".cache" / "phipack"


def test_a_cache_without_a_home_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container whose user the system does not know."""
    for name in ("HOME", "PHIPACK_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(SetupError, match="HOME is not set"):
        environment.cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert environment.cache_folder() == Path("/cache/phipack")
