"""The type of the KV cache on the command line: built, planned, registered, and shown wherever the bundle is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import phipack
from phipack.errors import CalibrationError, RecipeError
from targets.calibration import CalibrationSettings
from tests.support.checkpoints import write_tiny
from tests.support.command_line import InProcess, write_project
from tests.support.registrations import register_cells

BUILD = ("build", "checkpoint", "--recipe", "gguf-f16", "-o", "out")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A model with heads of 32 values."""
    return write_tiny(tmp_path / "checkpoint", hidden=128)


@pytest.mark.usefixtures("checkpoint")
def test_a_bundle_says_which_cache_it_is_opened_with(command: InProcess) -> None:
    assert "out: gguf-f16 (q8_0 KV cache), " in command(*BUILD, "--kv-cache", "q8_0").stdout
    assert "KV cache      q8_0, with flash attention\n" in command("inspect", "out").stdout
    form = json.loads(command("inspect", "out", "--json").stdout)["result"]
    assert form["manifest"]["recipe"]["kv_cache"] == "q8_0"
    built = json.loads(command(*BUILD, "--kv-cache", "f16", "--replace", "--json").stdout)["result"]
    assert built["bundles"][0]["kv_cache"] is None
    assert "KV cache" not in command("inspect", "out").stdout


@pytest.mark.usefixtures("checkpoint")
def test_an_int8_cache_of_onnx_calibrates_by_default(command: InProcess) -> None:
    words = ("build", "checkpoint", "--recipe", "onnx-fp16", "-o", "out", "--context", "256", "--kv-cache", "int8")
    assert "out: onnx-fp16 (light, int8 KV cache), " in command(*words).stdout
    assert "KV cache      int8, as its graph has it\n" in command("inspect", "--verify", "out").stdout


def test_what_can_not_be_is_refused_before_anything_is_built(checkpoint: Path, tiny_folder: Path) -> None:
    with pytest.raises(RecipeError, match="unknown type of KV cache 'q9'"):
        phipack.build(checkpoint, "gguf-f16", "out", kv_cache="q9")
    with pytest.raises(RecipeError, match="onnx-int4: unknown type of KV cache 'q8_0'"):
        phipack.build_each(checkpoint, {"gguf-f16": "out", "onnx-int4": "other"}, kv_cache="q8_0")
    with pytest.raises(RecipeError, match='with a KV cache in int8 and calibration "none"'):
        phipack.build(checkpoint, "onnx-int4", "out", kv_cache="int8", calibration="none")
    matrix = CalibrationSettings(imatrix=Path("matrix.gguf"))
    with pytest.raises(CalibrationError, match="which an importance matrix does not have"):
        phipack.build(checkpoint, "onnx-int4", "out", kv_cache="int8", calibration_settings=matrix)
    with pytest.raises(RecipeError, match="heads of 16 values"):
        phipack.build(tiny_folder, "gguf-f16", "out", kv_cache="q8_0")
    assert not Path("out").exists()


def test_cells_with_other_caches_have_jobs_of_their_own(
    command: InProcess, tmp_path: Path, checkpoint: Path, migrated_database: Path
) -> None:
    folder = write_project(tmp_path / "project", checkpoint, migrated_database)
    head = (folder / "phipack.toml").read_text("utf-8").partition("[[cells]]")[0]
    cells = "".join(
        f'[[cells]]\nname = "{name}"\ntarget = "galaxy-s24"\nrecipe = "gguf-q8_0"\n{asked}\n'
        for name, asked in (("plain", ""), ("same", 'kv_cache = "f16"'), ("half", 'kv_cache = "q8_0"'))
    )
    (folder / "phipack.toml").write_text(head + cells, "utf-8")
    where = ("--project", str(folder / "phipack.toml"))
    plan = command("plan", *where, "--json").document["result"]
    assert [cell["kv_cache"] for cell in plan["cells"]] == [None, None, "q8_0"]
    builds = [job for job in plan["jobs"] if job["kind"] == "build"]
    assert [(job["cells"], job["kv_cache"]) for job in builds] == [(["plain", "same"], None), (["half"], "q8_0")]
    assert builds[1]["name"].startswith("build-gguf-q8_0-kv_q8_0-")
    assert len({job["key"] for job in plan["jobs"]}) == len(plan["jobs"]) == 4
    predicted = [cell["figures"]["predicted_memory_bytes"]["value"] for cell in plan["cells"]]
    assert predicted[0] == predicted[1] > predicted[2]
    assert "gguf-q8_0, q8_0 KV cache" in command("release", "--dry-run", *where).stdout


def test_a_registered_bundle_is_listed_with_its_cache(
    command: InProcess, tmp_path: Path, migrated_database: Path
) -> None:
    register_cells(tmp_path, migrated_database, {"iphone-15": {"kv_cache": "q8_0"}, "pixel-9": {}})
    listed = json.loads(command("ls", "--json").stdout)["result"]["versions"]
    assert [row["kv_cache"] for row in listed] == ["q8_0", None]
    assert "gguf-q4_0, q8_0 KV cache" in command("ls").stdout
    assert "KV cache    q8_0\n" in command("show", "phi:1.0.0@iphone-15").stdout
    assert "KV cache" not in command("show", "phi:1.0.0@pixel-9").stdout


def test_fit_counts_its_bytes_for_gguf_recipes(command: InProcess) -> None:
    words = ("fit", "phi-3-mini-4k-instruct", "--target", "iphone-15-pro", "--json")
    plain, quantized = (
        {row["recipe"]: row["kv_cache_bytes"] for row in command(*words, *more).document["result"]["recipes"]}
        for more in ((), ("--kv-cache", "q8_0"))
    )
    assert (plain["gguf-q4_0"], quantized["gguf-q4_0"]) == (1_610_612_736, 1_610_612_736 * 34 // 64)
    assert quantized["onnx-int4"] == plain["onnx-int4"]
    in_onnx = {
        row["recipe"]: row["kv_cache_bytes"]
        for row in command(*words, "--kv-cache", "int8").document["result"]["recipes"]
    }
    assert (in_onnx["onnx-int4"], in_onnx["gguf-q4_0"]) == (4096 * 2 * 32 * 32 * 96, plain["gguf-q4_0"])
    assert "did you mean 'q8_0'" in command(*words[:-1], "--kv-cache", "q8", expect=1).stderr
