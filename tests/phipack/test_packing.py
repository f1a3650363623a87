"""`split` and `join` as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from devtools.bundles import make_bundle
from tests.support.command_line import Run, result_of
from tests.support.folders import contents


def test_a_bundle_is_split_and_joined(phipack: Run, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"model.gguf": bytes(range(256)) * 1000})
    shown = phipack("split", str(bundle.path), "--max-part-bytes", "0.1MB", "-o", "parts").stdout
    assert [line.split()[0] for line in shown.splitlines()[2:]] == ["part-1", "part-2", "part-3"]
    assert "100 kB" in shown
    done = result_of(phipack("--json", "join", "parts", "-o", "joined", "--digest", bundle.digest))
    assert done["digest"] == bundle.digest
    assert contents(tmp_path / "joined") == contents(bundle.path)


@pytest.mark.parametrize("size", ["1.5XB", "many", "-1", "0", "0.1", "1.5.5GB", "GB", ""])
def test_what_is_no_size_is_a_slip_of_usage(phipack: Run, tmp_path: Path, size: str) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    done = phipack("split", str(bundle.path), "--max-part-bytes", size, "-o", "parts", expect=2)
    assert "size" in done.stderr or "byte" in done.stderr
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    ("size", "count"), [("1.5GB", 1_500_000_000), ("512 MiB", 512 << 20), ("1gib", 1 << 30), ("7", 7), ("20kB", 20_000)]
)
def test_sizes_have_units(size: str, count: int) -> None:
    from phipack.commands.packing import ByteCount

    assert ByteCount().convert(size, None, None) == count


def test_a_missing_part_is_named(phipack: Run, tmp_path: Path) -> None:
    done = phipack("join", str(tmp_path), "-o", str(tmp_path / "out"), expect=1)
    assert "part-1" in done.stderr
    assert "fix:" in done.stderr
