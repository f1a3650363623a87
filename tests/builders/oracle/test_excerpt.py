"""The folder that transformers reads in place of the whole: the same names and bytes, without the later layers."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from builders.checkpoint import open_checkpoint
from builders.oracle import ask_oracle
from builders.oracle.excerpt import excerpt_of
from targets.errors import BuildError
from tests.support.checkpoints import write_tiny


def stored(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Every tensor of every file: its type and bytes."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        for name, entry in json.loads(content[8 : 8 + length]).items():
            if name != "__metadata__":
                start, stop = (8 + length + offset for offset in entry["data_offsets"])
                found[f"{path.name} {name}"] = (entry["dtype"], content[start:stop])
    return found


@pytest.mark.parametrize("shards", [1, 3])
def test_it_has_the_first_layers_bytes_under_their_names(tmp_path: Path, shards: int) -> None:
    folder = write_tiny(tmp_path / "c", layers=12, shards=shards)
    late = tuple(f".layers.{number}." for number in range(2, 12))
    whole = {name: value for name, value in stored(folder).items() if not any(part in name for part in late)}
    with excerpt_of(folder, 2) as place:
        assert stored(place) == whole
        assert json.loads((place / "config.json").read_bytes())["num_hidden_layers"] == 2
        for path in place.glob("*.safetensors"):
            with safe_open(path, "pt") as file:  # the library's own checks
                assert file.metadata() == {"format": "pt"}
        if shards > 1:
            index = json.loads((place / "model.safetensors.index.json").read_bytes())["weight_map"]
            assert {f"{file} {name}" for name, file in index.items()} == set(whole)
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            assert (place / name).read_bytes() == (folder / name).read_bytes()
    assert not place.exists()


def test_its_place_is_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    """It is the cache, which the oracle is the first to use in a new project: others refuse one that is open to all."""
    before = os.umask(0)
    try:
        with excerpt_of(write_tiny(tmp_path / "c"), scratch=tmp_path / ".phipack" / "cache"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / ".phipack" / "cache").stat().st_mode & 0o777 == 0o700


def test_without_layers_it_has_no_weights_and_never_code(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "c")
    (folder / "modeling_phi3.py").write_text("raise SystemExit", "utf-8")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with excerpt_of(folder, scratch=tmp_path / "scratch") as place:
        assert place.parent == tmp_path / "scratch"
        names = {path.name for path in place.iterdir()}
        assert names == {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
        assert json.loads((place / "config.json").read_bytes())["num_hidden_layers"] == 2


def peak_growth(folder: Path) -> int:
    """Bytes by which this process grew at its largest while the oracle was asked."""
    checkpoint = open_checkpoint(folder)
    assert checkpoint.digest
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak starts again from what is resident now
    before = resident("VmRSS")
    ask_oracle(checkpoint)
    return resident("VmHWM") - before


def resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux says what a part of a run took")
def test_memory_does_not_grow_with_the_layers(tmp_path: Path) -> None:
    shape = {"hidden": 256, "intermediate": 1024}
    few, many = (write_tiny(tmp_path / str(layers), layers=layers, **shape) for layers in (2, 32))
    peak_growth(few)  # what torch and transformers keep from then on
    layer_bytes = 4 * (512 + 256 + 2048 + 1024) * 256
    assert peak_growth(many) - peak_growth(few) < 4 * layer_bytes
    assert np.prod((30, layer_bytes)) > 100 << 20  # what the later layers would take


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, scratch, write = write_tiny(tmp_path / "c"), tmp_path / "scratch", Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.is_relative_to(scratch):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BuildError, match="no space left"), excerpt_of(folder, scratch=scratch):
        pass
    assert list(scratch.iterdir()) == []
