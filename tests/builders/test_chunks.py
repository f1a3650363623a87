"""Bundles' chunks: what two builds have in common is found, in every format that has tensors' borders."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from registry.bundle.folder import Bundle, verify
from registry.transfer.download import jobs_of
from registry.transfer.local_chunks import LocalChunks
from targets.recipes import recipe_named
from tests.support.checkpoints import write_tiny

WEIGHTS = {
    "gguf-q4_0": "model.gguf",
    "onnx-int4": "model.onnx.data",
    "coreml-int4": "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin",
}


def built(checkpoint: Path, recipe: str, out: Path) -> Bundle:
    return build(open_checkpoint(checkpoint), recipe_named(recipe), out)


def lacking(wanted: Bundle, there: Bundle) -> int:
    """Bytes that `there` does not have of `wanted`."""
    local = LocalChunks([there])
    jobs = (job for entry in wanted.manifest.files for job in jobs_of(entry, 0, local))
    return sum(job.bytes for job in jobs if job.local is None)


@pytest.mark.parametrize("recipe", WEIGHTS)
def test_chunks_are_the_weights_bytes(tmp_path: Path, recipe: str) -> None:
    bundle = built(write_tiny(tmp_path / "checkpoint"), recipe, tmp_path / "out")
    verify(bundle)
    entry = next(entry for entry in bundle.manifest.files if entry.path == WEIGHTS[recipe])
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


def spread(text: str) -> str:
    """The same JSON in 500 kB: as much between its tokens as a real vocabulary has in them."""
    blanks = random.Random(5)
    return "".join(part + "".join(blanks.choices(" \t\n", k=700)) for part in text.split(" "))


def template_changed(checkpoint: Path) -> None:
    edit(checkpoint / "tokenizer_config.json", lambda c: c | {"chat_template": "{# new #}" * 50 + c["chat_template"]})


def token_added(checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    text = path.read_text()
    begin = text.index("[", text.index('"added_tokens"')) + 1
    token = {**json.loads(text)["added_tokens"][0], "id": 315, "content": "<|tool|>"}
    text = text[:begin] + json.dumps(token) + "," + text[begin:]
    assert '"<unused315>"' in text
    path.write_text(text.replace('"<unused315>"', '"<|tool|>"'))


def stop_id_changed(checkpoint: Path) -> None:
    edit(checkpoint / "generation_config.json", lambda config: config | {"eos_token_id": [310, 313]})


def edit(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


@pytest.mark.parametrize("change", [template_changed, token_added, stop_id_changed])
@pytest.mark.parametrize("recipe", WEIGHTS)
def test_a_change_outside_the_weights_costs_kilobytes(
    tmp_path: Path, recipe: str, change: Callable[[Path], None]
) -> None:
    checkpoint = write_tiny(tmp_path / "checkpoint")
    path = checkpoint / "tokenizer.json"
    path.write_text(spread(json.dumps(json.loads(path.read_text()))))
    old = built(checkpoint, recipe, tmp_path / "old")
    change(checkpoint)
    new = built(checkpoint, recipe, tmp_path / "new")
    assert new.digest != old.digest
    assert new.file("tokenizer.json").stat().st_size > 400_000
    assert lacking(new, old) + len(new.manifest.to_bytes()) < 100_000
