"""What older runtimes make of each feature, tried: `python -m tests.support.runtime_matrix [--only onnxruntime-genai]`.

Old versions are installed side by side in `.cache/runtimes`, without touching this environment, and run the cases of
`devtools/runtime_cases.py` and a tiny bundle of every family and ONNX recipe. The outcome of each is written to
`tests/targets/runtime_outcomes.json`: `works` where the result is that of the newest version, else `differs`, `fails`
or `crashes`. A fast test holds `targets/runtimes/table.toml` to it. It takes about twenty minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from builders.build import build
from builders.checkpoint import open_checkpoint
from devtools.runtime_cases import cases
from registry.bundle.requirements import required_by
from targets.recipes import recipe_named
from tests.support.checkpoints import write_tiny
from tests.support.phi4 import write_phi_4_mini

OUTCOMES = Path("tests/targets/runtime_outcomes.json")
_INSTALLED = Path(".cache/runtimes")
# Newest first: its results are those that the others are compared with.
VERSIONS = {
    "onnxruntime": (
        *("1.32.0", "1.31.1", "1.31.0", "1.30.0", "1.29.0", "1.28.0", "1.27.0", "1.26.0", "1.25.0", "1.24.4"),
        *("1.24.1", "1.23.2", "1.23.0", "1.22.1", "1.22.0", "1.21.1", "1.21.0", "1.20.1", "1.20.0", "1.19.2"),
        *("1.19.0", "1.18.1", "1.18.0", "1.17.3", "1.17.0", "1.16.3"),
    ),
    "onnxruntime-genai": (
        *("0.18.0", "0.15.2", "0.12.2", "0.11.4", "0.10.0", "0.9.2", "0.8.3", "0.7.1", "0.6.0"),
        "0.5.2",  # older ones take a prompt otherwise
    ),
}
_NUMPY_1_BELOW = (1, 19)  # older onnxruntimes are built for numpy 1
_TOLERANCE = 0.2  # of the results' standard deviation: 8-bit activations were rounded differently before 1.30
_WIDE = {"hidden": 256, "intermediate": 512}  # what K-quants and blocks of 128 divide
_BUNDLES: dict[str, dict[str, Any]] = {
    "phi3": _WIDE,
    "window": _WIDE | {"window": 64},
    "longrope": _WIDE | {"context": 1024, "original_context": 256},
    "llama": _WIDE | {"family": "llama"},
    "sparse": _WIDE | {"family": "phi3small"},
    "sparse-longrope": _WIDE | {"family": "phi3small", "context": 1024, "original_context": 256},
}


def main() -> None:
    """Try all versions, and write the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=tuple(VERSIONS))
    asked = parser.parse_args().only
    known = json.loads(OUTCOMES.read_text("utf-8"))["runtimes"] if OUTCOMES.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="phipack-runtimes-") as name:
        for runtime in VERSIONS if asked is None else (asked,):
            known[runtime] = _tried(runtime, Path(name) / runtime)
    content = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{platform.system()} {platform.machine()}",
        "runtimes": known,
    }
    OUTCOMES.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")


def _tried(runtime: str, folder: Path) -> dict[str, Any]:
    """Run every case in every version. Returns features and outcomes by case."""
    made = dict(_onnx_cases(folder) if runtime == "onnxruntime" else _genai_cases(folder))
    for version in VERSIONS[runtime]:
        sys.stdout.write(f"{runtime} {version}\n")
        command = [sys.executable, "-m", "devtools.runtime_run", runtime, *(str(folder / name) for name in made)]
        ran = subprocess.run(command, env=_environment(runtime, version), check=False, capture_output=True, text=True)
        if ran.returncode:
            raise SystemExit(ran.stderr)
    return {
        name: {
            "features": sorted(features),
            "outcomes": {
                version: _outcome(folder / name, version, VERSIONS[runtime][0]) for version in VERSIONS[runtime]
            },
        }
        for name, features in sorted(made.items())
    }


def _outcome(folder: Path, version: str, newest: str) -> str:
    error = folder / f"{version}.error"
    if error.is_file():
        return "crashes" if error.read_text().startswith("signal") else "fails"
    found, expected = np.load(folder / f"{version}.npy"), np.load(folder / f"{newest}.npy")
    visible = np.isfinite(expected)  # Phi-3-small hides logits by minus infinity
    if found.shape != expected.shape or not np.array_equal(np.isfinite(found), visible):
        return "differs"
    near = np.abs(found[visible] - expected[visible]).max() <= _TOLERANCE * expected[visible].std()
    return "works" if near else "differs"


def _environment(runtime: str, version: str) -> Mapping[str, str]:
    """Return variables with which this Python imports the version, installed first where it is missing."""
    paths = [_installed(runtime, version)]
    if runtime == "onnxruntime" and tuple(map(int, version.split(".")[:2])) < _NUMPY_1_BELOW:
        paths.append(_installed("numpy", "1.26.4"))
    return os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, paths), str(Path.cwd())]), "OMP_NUM_THREADS": "1"}


def _installed(name: str, version: str) -> Path:
    target = _INSTALLED.resolve() / f"{name}-{version}"
    if not target.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", f"{name}=={version}"]
        subprocess.run([*pip, "--target", str(target)], check=True, capture_output=True)
    return target


def _onnx_cases(folder: Path) -> Iterator[tuple[str, set[str]]]:
    for feature, case in cases().items():
        name = feature.replace("/", "_").replace("=", "-")
        (folder / name).mkdir(parents=True)
        (folder / name / "model.onnx").write_bytes(case.model)
        np.savez(folder / name / "inputs.npz", **case.inputs)
        yield name, set(case.features)
    yield from _bundles(folder)


def _bundles(folder: Path) -> Iterator[tuple[str, set[str]]]:
    for family, tiny in (*_BUNDLES.items(), ("phi-4-mini", None)):
        checkpoint = folder / f"checkpoint-{family}"
        write_phi_4_mini(checkpoint) if tiny is None else write_tiny(checkpoint, **tiny)
        for recipe in ("onnx-fp16", "onnx-int4"):
            name = f"bundle-{family}-{recipe}"
            bundle = build(open_checkpoint(checkpoint), recipe_named(recipe), folder / name)
            needed = required_by(bundle.path, bundle.manifest.files).features
            yield name, {feature for feature in needed if feature.startswith("onnx/")}


def _genai_cases(folder: Path) -> Iterator[tuple[str, set[str]]]:
    """Bundles of each type of model; one whose answer crosses longrope's edge."""
    long = _WIDE | {"context": 8192, "original_context": 4096}
    for family, tiny, prompt in (("phi3", _WIDE, 20), ("llama", _BUNDLES["llama"], 20), ("longrope", long, 4092)):
        checkpoint = write_tiny(folder / f"checkpoint-{family}", **tiny)
        context = tiny.get("context", 512)
        path = folder / f"bundle-{family}"
        bundle = build(open_checkpoint(checkpoint), recipe_named("onnx-fp16"), path, context_length=context)
        (path / "prompt.json").write_text(json.dumps([1 + token % 300 for token in range(prompt)]))
        needed = required_by(path, bundle.manifest.files).features
        yield path.name, {feature for feature in needed if feature.startswith("genai/")}


if __name__ == "__main__":
    main()
