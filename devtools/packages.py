"""Packages with data for benchmarks and tests, downloaded once from their registries and verified by their SHA-256.

CACHE/download/ keeps them; CACHE is PHIPACK_CACHE of the environment, else `.cache/` in the repository.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from registry.files.staging import disk_errors
from targets.errors import BuildError

_REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Package:
    """A pinned package: its requirement, the name of its file, its SHA-256.

    The file's extension decides which tool downloads it: pip for `.whl` and `.tar.gz`, npm for `.tgz`.
    """

    requirement: str
    file: str
    sha256: str


# The source distribution of llama-cpp-python, with llama.cpp's sources, converter and test vocabularies (MIT).
LLAMA_CPP = Package(
    "llama-cpp-python==0.3.36",
    "llama_cpp_python-0.3.36.tar.gz",
    "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
)


def default_cache() -> Path:
    """Return PHIPACK_CACHE of the environment, or `.cache` in the repository if it is not set."""
    named = os.environ.get("PHIPACK_CACHE")
    return Path(named).expanduser().absolute() if named else _REPOSITORY / ".cache"


def pinned(package: Package, cache: Path) -> Path:
    """Return the package's path. Download it first if it is missing, and check its digest each time.

    Raises:
        BuildError: it can't be fetched, or is not the pinned one, or the disk refuses.
    """
    folder = cache / "download"
    path = folder / package.file
    if not path.is_file():
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        said = _fetch(package, folder)
        if not path.is_file():
            raise BuildError(f"{package.requirement} can't be fetched: {said}", fix=f"put {package.file} into {folder}")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != package.sha256:
        raise BuildError(f"{path}: SHA-256 {digest}, {package.sha256} was expected", fix="remove it and run this again")
    return path


def _fetch(package: Package, folder: Path) -> str:
    """Download a package. Return the last line of the output if that failed."""
    if package.file.endswith(".tgz"):
        command = ["npm", "pack", package.requirement, "--silent", "--pack-destination", str(folder)]
    else:
        kind = ["--only-binary", ":all:"]
        if not package.file.endswith(".whl"):
            kind = ["--no-binary", package.requirement.partition("==")[0]]  # `:all:` would compile its build tools too
        quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
        command = [sys.executable, "-m", "pip", "download", *quiet, *kind, "--dest", str(folder), package.requirement]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    return (result.stderr.strip().splitlines() or [f"{command[0]} said nothing"])[-1]
