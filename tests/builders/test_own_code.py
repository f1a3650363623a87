"""What counts as phipack's own code: all that a bundle's bytes or figures follow from, and no more."""

from __future__ import annotations

from builders.own_code import counted_files


def test_all_that_decides_counts_once() -> None:
    names = [name for name, _ in counted_files()]
    assert len(names) == len(set(names))
    assert {
        "builders/gguf/convert.py",
        "builders/validation/texts/prompts.json",
        "builders/quantization/calibration/texts/german.txt",
        "registry.bundle/manifest.py",  # the manifest's form
        "registry.bundle/requirements.py",
        "registry.formats/onnx_graph.py",  # what requirements are read with
        "targets/storage/gguf.py",
        "targets.runtimes/table.toml",  # what a manifest requires
    } <= {*names}


def test_what_decides_nothing_of_a_bundle_does_not_count() -> None:
    names = [name for name, _ in counted_files()]
    assert not [name for name in names if "/devices/" in name and name.endswith(".toml")]
    assert not [
        name
        for name in names
        if name.startswith("registry.") and not name.startswith(("registry.bundle", "registry.formats"))
    ]
    assert not [name for name in names if "published" in name and name.endswith(".toml")]
