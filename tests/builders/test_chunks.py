"""Bundles' chunks: what two builds have in common is found, in every format that has tensors' borders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from registry.bundle import Bundle, verify
from registry.reuse import Known
from registry.transfer import jobs_of
from targets.recipes import recipe_named
from tests.checkpoints import write_tiny

WEIGHTS = {
    "gguf-q4_0": "model.gguf",
    "onnx-int4": "model.onnx.data",
    "coreml-int4": "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin",
}


def built(checkpoint: Path, recipe: str, out: Path) -> Bundle:
    return build(open_checkpoint(checkpoint), recipe_named(recipe), out)


def lacking(wanted: Bundle, there: Bundle) -> int:
    """Bytes that `there` does not have of `wanted`."""
    known = Known([there])
    jobs = (job for entry in wanted.manifest.files for job in jobs_of(entry, 0, known))
    return sum(job.bytes for job in jobs if job.local is None)


@pytest.mark.parametrize("recipe", WEIGHTS)
def test_chunks_are_the_weights_bytes(tmp_path: Path, recipe: str) -> None:
    bundle = built(write_tiny(tmp_path / "checkpoint"), recipe, tmp_path / "out")
    verify(bundle)
    (entry,) = (entry for entry in bundle.manifest.files if entry.chunks)
    assert entry.path == WEIGHTS[recipe]
    content = bundle.file(entry.path).read_bytes()
    begin = 0
    for chunk in entry.chunks:
        assert chunk.sha256 == hashlib.sha256(content[begin : begin + chunk.bytes]).hexdigest()
        begin += chunk.bytes
    assert begin == len(content)
    assert len(entry.chunks) > 10


@pytest.mark.parametrize("recipe", WEIGHTS)
def test_another_template_and_stop_id_leave_the_tensors_where_they_are(tmp_path: Path, recipe: str) -> None:
    checkpoint = write_tiny(tmp_path / "checkpoint", hidden=256, intermediate=1024)
    old = built(checkpoint, recipe, tmp_path / "old")
    path = checkpoint / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = "{# longer #}" * 100 + config["chat_template"]
    path.write_text(json.dumps(config))
    new = built(checkpoint, recipe, tmp_path / "new")
    assert new.digest != old.digest
    assert 0 < lacking(new, old) < 60_000 < new.file(WEIGHTS[recipe]).stat().st_size / 5
