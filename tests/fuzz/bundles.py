"""Bundles: manifests, deltas, parts, evidence, and the directories of weight files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from devtools.bundles import make_bundle, make_evidence
from registry.bundle.folder import Bundle
from registry.bundle.manifest import FileEntry, Manifest
from registry.bundle.parts import join, split
from registry.diff.coreml_contents import coreml_contents
from registry.diff.gguf_contents import gguf_contents
from registry.diff.onnx_contents import onnx_contents
from registry.store.folder import FolderStore
from registry.store.measurements import add_measurements, read_measurements
from registry.transfer.delta import open_delta
from registry.transfer.delta_writer import make_delta
from targets.device_evidence import device_figures
from targets.devices import target_named
from targets.evidence import Evidence
from tests.fuzz.target import Target, file
from tests.support.chunked import entry_of
from tests.support.coreml_files import blob_file, coreml_model
from tests.support.gguf_files import write_gguf
from tests.support.measurements import BUNDLE, measurement


def manifest_target(folder: Path) -> Target:
    bundle = make_bundle(folder / "bundle")
    chunked = bundle.manifest.model_copy(update={"files": [entry_of([b"aa", b"bbb"]), *bundle.manifest.files]})

    def parse(raw: bytes) -> object:
        manifest = Manifest.parse(raw, source="manifest")
        return manifest.digest, f"{manifest.total_bytes / 1e6:.1f} MB"

    return Target((bundle.manifest.to_bytes(), chunked.to_bytes()), parse)


def delta_target(folder: Path) -> Target:
    content = bytes(range(256)) * 40
    old = make_bundle(folder / "old", {"model.gguf": content})
    entry = entry_of([content[:5000] + b"x" + content[5001:], content[:300]], "model.gguf")
    new = Bundle(folder / "new", old.manifest.model_copy(update={"files": [entry]}))
    new.path.mkdir()
    new.file("model.gguf").write_bytes(content[:5000] + b"x" + content[5001:] + content[:300])
    chunked = entry_of([content], "model.gguf")
    old = Bundle(old.path, old.manifest.model_copy(update={"files": [chunked]}))
    make_delta(old, new, folder / "delta")

    def read(path: Path) -> object:
        with open_delta(path, old) as delta:
            return [delta.chunk(chunk) for chunk in entry.chunks]

    return Target(((folder / "delta").read_bytes(),), file(folder / "damaged", read))


def parts_target(folder: Path) -> Target:
    split(make_bundle(folder / "bundle"), folder / "parts", 10_000)
    index = folder / "parts" / "part-1" / "parts.json"
    out = folder / "out"
    return Target((index.read_bytes(),), file(index, lambda _: join(folder / "parts", out, replace=True)), 150)


def evidence_target(folder: Path) -> Target:
    evidence = make_evidence(make_bundle(folder / "bundle"))
    return Target((evidence.to_json().encode(),), lambda raw: Evidence.parse(raw, source="evidence").to_json())


def _contents(name: str, raw: bytes, read: Callable[[Manifest, Any], object]) -> Target:
    def parse(damaged: bytes) -> object:
        entry = FileEntry(path=name, bytes=len(damaged), sha256="0" * 64)
        return read(Manifest.model_construct(files=[entry]), lambda _: io.BytesIO(damaged))

    return Target((raw,), parse)


def gguf_target(folder: Path) -> Target:
    write_gguf(folder / "model.gguf", {"a": np.ones((2, 32), np.float32), "b": np.ones(32, np.float16)})
    return _contents("model.gguf", (folder / "model.gguf").read_bytes(), gguf_contents)


def onnx_target(_: Path) -> Target:
    import onnx

    initializers = [onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "a")]
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], initializers))
    return _contents("model.onnx", model.SerializeToString(), onnx_contents)


def coreml_target(_: Path) -> Target:
    weights = blob_file(b"abcdef", b"ghijkl")
    entry = FileEntry(path="weights/weight.bin", bytes=len(weights), sha256="0" * 64)

    def parse(damaged: bytes) -> object:
        files = [FileEntry(path="model.mlmodel", bytes=len(damaged), sha256="0" * 64), entry]
        contents = {"model.mlmodel": damaged, entry.path: weights}
        return coreml_contents(Manifest.model_construct(files=files), lambda one: io.BytesIO(contents[one.path]))

    return Target((coreml_model({"a": (64, [3]), "b": (192, [3, 1])}),), parse)


def measurements_target(folder: Path) -> Target:
    store = FolderStore(folder / "store")
    add_measurements(store, BUNDLE, [measurement(12.0), measurement(13.0, match="claim")])
    path = folder / "store" / "measurements" / f"{BUNDLE.removeprefix('sha256:')}.json"
    raw = path.read_bytes()
    path.chmod(0o644)
    target = target_named("iphone-15")
    return Target((raw,), file(path, lambda _: device_figures(read_measurements(store, BUNDLE), target)))
