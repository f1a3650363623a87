"""The environment that optimum runs in: transformers 4 next to the packages that phipack itself uses.

    CACHE/optimum/KEY/        a virtual environment, complete or not there; KEY: the pins, Python and phipack's own
                              packages, digested
    CACHE/optimum/KEY.lock    held by the process that creates it

CACHE is `PHIPACK_CACHE`, `XDG_CACHE_HOME/phipack`, or `~/.cache/phipack`. What is in `optimum/` is run, so that it must
be this user's own. Only what differs is installed, about 70 MB: torch, numpy, onnx and onnxruntime are read from where
phipack finds them, through a .pth file, after its own packages.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import venv
from contextlib import ExitStack
from pathlib import Path

from registry.files.lock import file_lock
from registry.files.lock_wait import noticing
from registry.files.owned import private_folder, require_own_folder
from registry.files.staging import disk_errors, staged_folder
from targets.errors import BuildError, SetupError
from targets.installation import install_command, installed_version
from targets.progress import Notice, Progress, Step, silent
from targets.this_user import expanded

# optimum-onnx 0.1.0 needs optimum 2.1 and a transformers before 4.58, which needs the other two.
PINS = {
    "transformers": "4.57.6",
    "huggingface_hub": "0.36.2",
    "tokenizers": "0.22.2",
    "optimum": "2.1.0",
    "optimum-onnx": "0.1.0",
}
# What it shares with phipack: large, and the same versions that phipack is tested with.
SHARED = ("torch", "numpy", "onnx", "onnxruntime", "safetensors")
_STEPS = 3
_VERSIONS = """
import importlib.metadata, json, sys

def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""
_IMPORTS = "import optimum.exporters.onnx, tokenizers, transformers; print(transformers.__version__)"
# pip's settings that say where packages come from; every other one of a user's (a target folder, constraints) is for
# environments of their own.
_PIP_SETTINGS = frozenset(
    f"PIP_{name}"
    for name in (
        *("INDEX_URL", "EXTRA_INDEX_URL", "NO_INDEX", "FIND_LINKS", "TRUSTED_HOST", "CERT", "CLIENT_CERT", "PROXY"),
        *("CACHE_DIR", "NO_CACHE_DIR", "TIMEOUT", "DEFAULT_TIMEOUT", "RETRIES", "CONFIG_FILE", "KEYRING_PROVIDER"),
    )
)
_NOT_PASSED_ON = (
    "PYTHON",
    "PIP_",
    "VIRTUAL_ENV",
    "CONDA_",
    "HF_",
    "HUGGING",
    "TRANSFORMERS_",
    "USE_",
    "MLFLOW_",
    "AWS_",
)


def optimum_environment(cache: Path | None = None, *, on_progress: Progress = silent) -> Path:
    """Return the environment's Python. The environment is created first where it is missing or damaged.

    Several processes may ask at once: one creates it, the others wait. Start it with `python_arguments`.

    Raises:
        SetupError: pip can't install what is missing, or phipack's own packages are incomplete.
        BuildError: the cache can't be written, or the disk is full. Nothing half-made is used later.
    """
    folder = environment_folder(cache)
    with disk_errors(folder):
        private_folder(folder.parent)  # first: what is in it is run
    if not is_complete(folder):
        with ExitStack() as stack:
            lock = folder.with_name(f"{folder.name}.lock")
            with disk_errors(folder), noticing(on_progress, f"creates {folder}") as on_wait:
                stack.enter_context(file_lock(lock, mode=0o600, on_wait=on_wait))
            if not is_complete(folder):
                _create(folder, on_progress)
    return _python(folder)


def environment_folder(cache: Path | None = None) -> Path:
    """Return the folder that the environment has, or will have."""
    return (cache_folder() if cache is None else cache) / "optimum" / _key()


def is_complete(folder: Path) -> bool:
    """Return True where the environment is there with the right versions. Nothing is created.

    Another user's is not asked, since that would run it.
    """
    try:
        require_own_folder(folder.parent)
    except OSError:
        return False
    return _python(folder).is_file() and _versions(folder) == _wanted()


def cache_folder() -> Path:
    """Return the folder for what can be made again. Raises `SetupError` where no variable says where that is."""
    if said := os.environ.get("PHIPACK_CACHE"):
        return expanded(said).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or expanded("~/.cache")) / "phipack"


def python_arguments(python: Path) -> list[str]:
    """Return the words that start the environment's Python: isolated from PYTHONPATH and the current folder."""
    return [str(python), "-I"]


def quiet_environment() -> dict[str, str]:
    """Return the variables for what runs in the environment: the user's, less those meant for another one.

    Nothing is downloaded, and no token is handed on.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
    ours = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "PIP_DISABLE_PIP_VERSION_CHECK")
    return kept | dict.fromkeys(ours, "1") | {"TOKENIZERS_PARALLELISM": "false"}


def _key() -> str:
    parts = [PINS, platform.python_version_tuple()[:2], platform.machine(), sys.prefix, _own_folders()]
    return hashlib.sha256(json.dumps(parts, allow_nan=False).encode()).hexdigest()[:16]


def _own_folders() -> list[str]:
    """Return the folders of the packages that phipack itself runs with, in the order of their precedence."""
    folders = (Path(entry) for entry in sys.path if entry)
    return [str(folder) for folder in folders if folder.name in ("site-packages", "dist-packages") and folder.is_dir()]


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _wanted() -> dict[str, str | None]:
    return {**PINS, **{name: installed_version(name) for name in SHARED}}


def _versions(folder: Path) -> dict[str, str | None]:
    """Ask the environment for its packages' versions; nothing where one is missing or its Python does not start."""
    done = _run(folder, "-c", _VERSIONS, *_wanted())
    return {} if done.returncode else json.loads(done.stdout)


def _run(folder: Path, *arguments: str, variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*python_arguments(_python(folder)), *arguments]
    try:
        return subprocess.run(  # noqa: S603 - the environment's own Python
            command,
            env=quiet_environment() | (variables or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:  # its Python's target is gone
        return subprocess.CompletedProcess(command, 127, "", str(error))


def _create(folder: Path, on_progress: Progress) -> None:
    """Create the environment next to its place, look at it, and move it there."""
    missing = [name for name in SHARED if installed_version(name) is None]
    if missing:
        raise SetupError(
            f"optimum needs {', '.join(missing)}, which phipack[build] brings", fix=install_command("build")
        )
    on_progress(Notice(f"creating an environment for optimum with transformers {PINS['transformers']}, once: {folder}"))

    def step(done: int) -> None:
        on_progress(Step("optimum environment", done, _STEPS))

    step(0)
    with staged_folder(folder, replace=True) as staging:
        venv.EnvBuilder(symlinks=True, with_pip=False).create(staging)
        packages = next(staging.glob("lib/python3*/site-packages"))
        (packages / "phipack_shared.pth").write_text("".join(f"{each}\n" for each in _own_folders()), "utf-8")
        _refuse_hidden_packages(staging)
        step(1)
        _install(staging)
        step(2)
        _refuse_wrong_packages(staging)
        for script in (staging / "bin").iterdir():  # their first lines name the staging folder; nothing calls them
            if not script.name.startswith("python"):
                script.unlink()
    step(_STEPS)


def _refuse_hidden_packages(staging: Path) -> None:
    """Refuse to go on where the environment does not see what it shares: pip would install another torch."""
    done = _run(staging, "-c", _VERSIONS, *SHARED)
    if done.returncode or json.loads(done.stdout) != {name: installed_version(name) for name in SHARED}:
        where = ", ".join(_own_folders()) or sys.prefix
        raise SetupError(
            f"an environment for optimum does not find {', '.join(SHARED)} in {where}: {_last_line(done.stderr)}",
            fix="install phipack in a virtual environment: python3 -m venv .venv, then .venv/bin/"
            + install_command("build"),
        )


def _install(staging: Path) -> None:
    if _run(staging, "-c", "import pip").returncode:  # phipack's own environment has no pip: uv's have none
        done = _run(staging, "-m", "ensurepip")
        if done.returncode:
            raise SetupError(
                f"there is no pip to install optimum with: {_last_line(done.stderr)}",
                fix=f"install pip next to phipack, then retry: {sys.executable} -m ensurepip, or uv pip install pip",
            )
    wanted = [f"{name}=={version}" for name, version in PINS.items()]
    settings = {name: value for name, value in os.environ.items() if name in _PIP_SETTINGS}
    options = ["--quiet", "--no-input", "--no-user", "--no-compile", "--only-binary=:all:"]
    done = _run(staging, "-m", "pip", "install", *options, *wanted, variables=settings)
    if done.returncode:
        if "No space left on device" in done.stderr:
            raise BuildError(
                f"no space left while installing optimum in {staging.parent}",
                fix="free space, or set PHIPACK_CACHE to a folder on another disk",
            )
        raise SetupError(
            f"pip can't install {' '.join(wanted)}: {_last_error(done.stderr)}",
            fix="try again with a network, or bring the packages: on a machine that has one, pip download --no-deps -d"
            f" wheels {' '.join(wanted)}; here, PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels phipack export ...",
        )


def _refuse_wrong_packages(staging: Path) -> None:
    """Look at the result from outside: every version, and whether optimum can be imported."""
    found = _versions(staging)
    wrong = [
        f"{name} {found.get(name)}, not {version}" for name, version in _wanted().items() if found.get(name) != version
    ]
    done = _run(staging, "-c", _IMPORTS)
    if wrong or done.returncode or done.stdout.strip() != PINS["transformers"]:
        raise SetupError(
            f"the environment for optimum is not as it should be: {'; '.join(wrong) or _last_line(done.stderr)}",
            fix=f"install phipack's own packages again, then retry: {install_command('build')}",
        )


def _last_error(text: str) -> str:
    """Return the first of pip's last errors: those after it repeat it in other words."""
    errors = [line.removeprefix("ERROR: ").strip() for line in text.splitlines() if line.startswith("ERROR: ")]
    return errors[-1] if errors else _last_line(text)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no message"
