"""Checks of this machine: Python, extras, runtimes, disks, and the project file."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phipack.diagnosis.check import Check, Status, failed
from targets.errors import PhipackError
from targets.formatting import count, size
from targets.installation import Requirement, install_command, installed_version, requirements
from targets.other_process import not_started

if TYPE_CHECKING:
    from phipack.options import State

OLDEST_PYTHON = (3, 11)
LOW_DISK_BYTES = 10 * 10**9  # Phi-3-mini's largest bundle, in float16, is 7.6 GB
FULL_DISK_BYTES = 10**9
IMPORT_SECONDS = 120
PURPOSES = {
    "build": "build, validate, release and generate",
    "registry": "promote, rollback, history and stores on S3",
    "serve": "serve",
}


@dataclass(frozen=True)
class Runtime:
    """What runs bundles of a format: its name, the module that is imported, the package that brings it.

    `program`: how phipack imports it, where that is not a plain import.
    """

    name: str
    module: str
    package: str
    program: str = ""


_COREMLTOOLS = (
    "from targets.own_process import is_own_process; is_own_process();"
    "from builders.coreml.library import load_coremltools; load_coremltools()"
)
RUNTIMES = (
    Runtime("llama.cpp", "llama_cpp", "llama-cpp-python"),
    Runtime("onnxruntime", "onnxruntime", "onnxruntime"),
    Runtime("onnxruntime-genai", "onnxruntime_genai", "onnxruntime-genai"),
    Runtime("coremltools", "coremltools", "coremltools", _COREMLTOOLS),
)


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """Compare Python with the oldest version that works."""
    found = f"{'.'.join(map(str, version))}, {platform.system()} {platform.machine()}"
    if version >= OLDEST_PYTHON:
        return Check("Python", "ok", found)
    return Check("Python", "fail", found, "use Python 3.11 or later: python3.11 -m venv .venv")


def check_extras(required: Iterable[Requirement] | None = None) -> list[Check]:
    """Look for every package of the base install and of each extra. An extra that nobody installed is a warning."""
    by_extra: dict[str, list[Requirement]] = {"": []}
    for one in requirements() if required is None else required:
        by_extra.setdefault(one.extra, []).append(one)
    return [_check_extra(extra, packages) for extra, packages in by_extra.items()]


def _check_extra(extra: str, packages: list[Requirement]) -> Check:
    name = f"extra [{extra}]" if extra else "base install"
    if not packages:
        return Check(name, "warn", "not installed as a package", install_command())
    versions = {one.package: installed_version(one.package) for one in packages}
    missing = [package for package, version in versions.items() if version is None]
    fix = install_command(*filter(None, (extra,)))
    if missing:
        purpose = f", for {PURPOSES[extra]}" if extra in PURPOSES else ""
        status: Status = "warn" if extra else "fail"
        return Check(name, status, f"missing: {', '.join(missing)}{purpose}", fix)
    wrong = [
        f"{one.package} {version}, tested with {one.versions}"
        for one in packages
        if (version := versions[one.package]) is not None and not one.allows(version)
    ]
    if wrong:
        return Check(name, "warn", "; ".join(wrong), fix)
    return Check(name, "ok", ", ".join(f"{package} {version}" for package, version in versions.items()))


def check_runtimes(runtimes: Iterable[Runtime] = RUNTIMES) -> Iterator[Check]:
    """Import each runtime that is installed, in a process of its own: one built for another CPU ends that process."""
    installed = {
        runtime: version for runtime in runtimes if (version := installed_version(runtime.package)) is not None
    }
    processes: dict[Runtime, subprocess.Popen[str]] = {}
    try:
        for runtime, version in installed.items():
            try:
                processes[runtime] = _importing(runtime)
            except OSError as error:
                problem, fix = not_started("the process that imports it", error)
                yield Check(runtime.name, "fail", f"{version}: {problem}", fix)
        for runtime, process in processes.items():
            yield _imported(runtime, installed[runtime], process)
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


def _importing(runtime: Runtime) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter, a module of the list above
        [sys.executable, "-c", runtime.program or f"import {runtime.module}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_optimum() -> Iterator[Check]:
    """Look for the environment that `phipack export` creates. It is missing until the first export, which is well."""
    if installed_version("torch") is None:
        return  # the extra [build] is missing, and says so
    from builders.optimum_export.environment import PINS, environment_folder, is_complete

    name = "optimum, for phipack export"
    try:
        folder = environment_folder()
    except PhipackError as error:
        yield failed(name, error)
        return
    there = f"in {folder}" if is_complete(folder) else f"not there yet: the first phipack export creates {folder}"
    versions = ", ".join(f"{name} {version}" for name, version in PINS.items())
    yield Check(name, "ok", f"{versions}, {there}")


def _imported(runtime: Runtime, version: str, process: subprocess.Popen[str]) -> Check:
    again = f"pip install --force-reinstall --no-cache-dir {runtime.package}=={version}"
    try:
        said = process.communicate(timeout=IMPORT_SECONDS)[1].strip().splitlines()
    except subprocess.TimeoutExpired:
        return Check(runtime.name, "fail", f"{version} can't be imported within {IMPORT_SECONDS} s", again)
    if process.returncode == 0:
        return Check(runtime.name, "ok", version)
    if process.returncode < 0:
        return Check(runtime.name, "fail", f"{version} ends by signal {-process.returncode} as it is imported", again)
    return Check(runtime.name, "fail", f"{version} can't be imported: {said[-1] if said else 'no message'}", again)


def check_project(state: State) -> Check:
    """Read the project file, and look for its checkpoint and adapter."""
    try:
        path, _ = state.project_file, state.home
        if path is None:
            return Check("project file", "ok", "none in this folder or above it")
        project = state.required_project
    except PhipackError as error:
        return failed("project file", error)
    found = f"{path}: {project.model} {project.version}, {count(len(project.cells), 'cell')}"
    if not project.checkpoint.is_dir():
        return Check("project file", "warn", f"{found}; no checkpoint at {project.checkpoint}", "set checkpoint = …")
    if project.adapter is not None and not project.adapter.is_dir():
        return Check("project file", "warn", f"{found}; no adapter at {project.adapter}", "set adapter = …")
    return Check("project file", "ok", found)


def check_disks(places: Iterable[Path]) -> Iterator[Check]:
    """Look at the free space of each disk that is written to, once each."""
    seen = set()
    for place in (*places, Path(os.environ.get("TMPDIR") or tempfile.gettempdir())):
        folder = existing_parent(place)
        device = folder.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(folder).free
        status: Status = "fail" if free < FULL_DISK_BYTES else "warn" if free < LOW_DISK_BYTES else "ok"
        fix = None if status == "ok" else f"free space there: a bundle of Phi-3-mini takes up to {size(LOW_DISK_BYTES)}"
        yield Check("disk", status, f"{size(free)} free at {folder}", fix)


def existing_parent(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - a link stays as given
    return next(one for one in (path, *path.parents) if one.exists())
