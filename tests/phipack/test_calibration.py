"""Calibration on the command line and in the API: what is asked for is done or refused, and shown afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import phipack
from builders.validation.text import read_text
from registry.bundle.folder import open_bundle
from registry.files.digests import digest_of_file
from targets.calibration import CalibrationSettings
from targets.errors import CalibrationError, RecipeError
from tests.support.checkpoints import write_overflowing, write_tiny
from tests.support.command_line import InProcess

BUILD = ("build", "checkpoint", "--recipe", "onnx-int4", "-o", "out")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "checkpoint")


@pytest.mark.usefixtures("checkpoint")
def test_a_calibrated_bundle_says_so(command: InProcess) -> None:
    built = command(*BUILD, "--calibration", "light", "--profile")
    assert "out: onnx-int4 (light), " in built.stdout
    assert "calibrate" in built.stderr
    entry = open_bundle(Path("out")).manifest.recipe.calibration
    assert entry is not None
    assert f"calibration   light: 2,048 tokens, {entry.text}" in command("inspect", "out").stdout
    shown = json.loads(command("inspect", "out", "--json").stdout)["result"]["manifest"]["recipe"]["calibration"]
    assert shown == {"level": "light", "text": entry.text, "tokens": 2048}
    plain = command("build", "checkpoint", "--recipe", "onnx-int4", "--calibration", "none", "-o", "plain", "--json")
    assert json.loads(plain.stdout)["result"]["bundles"][0]["calibration"] is None
    assert "calibration   none" in command("inspect", "plain").stdout


@pytest.mark.usefixtures("checkpoint")
def test_calibrate_measures_what_builds_then_find(command: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    first = command("calibrate", "checkpoint")
    assert first.stdout.startswith("checkpoint: light, 2,048 tokens of the built-in calibration text, ")
    assert "kept in .phipack/cache\n" in first.stdout
    report = json.loads(command("calibrate", "checkpoint", "--json").stdout)["result"]
    assert report["text_digest"] in first.stdout
    assert (report["level"], report["tokens"], report["imatrix"]) == ("light", 2048, None)

    def walk(*_: object, **__: object) -> None:
        raise AssertionError("the checkpoint is run again")

    monkeypatch.setattr("builders.reference.logits.hidden_states", walk)
    command(*BUILD, "--calibration", "light")


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--calibration", "lite"), 2, "'lite' is not one of 'none', 'light', 'full'"),
        (("--calibration", "none", "--calibration-text", "t"), 2, "need calibration, light or full"),
        (("--calibration", "full", "--imatrix", "t"), 2, "full needs a text"),
        (("--calibration-text", "t", "--imatrix", "t"), 2, "exclude one another"),
        (("--calibration", "light", "--calibration-text", "nowhere"), 1, "nowhere: calibration text can't be read"),
        (("--calibration", "light", "--calibration-text", "short"), 1, "reads 2,048"),
        (("--calibration", "light", "--calibration-text", "evaluation"), 1, "share passages: 100 %"),
        (("--calibration", "light", "--recipe", "onnx-fp16"), 1, "onnx-fp16 stores 16-bit weights"),
    ],
)
def test_what_can_not_be_calibrated_is_refused_and_nothing_is_built(
    command: InProcess, words: tuple[str, ...], code: int, said: str
) -> None:
    Path("short").write_text("too short", "utf-8")
    Path("evaluation").write_text(read_text(None), "utf-8")
    done = command(*BUILD, *words, expect=code)
    assert said in done.stderr
    assert not Path("out").exists()


@pytest.mark.usefixtures("checkpoint")
def test_calibrate_refuses_the_text_of_the_evaluation(command: InProcess) -> None:
    Path("evaluation").write_text(read_text(None), "utf-8")
    done = command("calibrate", "checkpoint", "--calibration-text", "evaluation", expect=1)
    assert "evaluation and the built-in text" in done.stderr
    assert not Path(".phipack").exists()


def test_settings_that_would_not_be_used_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    text, matrix = CalibrationSettings(tmp_path / "text"), CalibrationSettings(imatrix=tmp_path / "matrix")
    with pytest.raises(CalibrationError, match=r"nothing is calibrated here, so .*text would"):
        phipack.build(checkpoint, "gguf-f16", tmp_path / "out", calibration_settings=text)
    with pytest.raises(CalibrationError, match="no more than light calibration needs"):
        phipack.build(checkpoint, "gguf-q4_0", tmp_path / "out", calibration="full", calibration_settings=matrix)
    with pytest.raises(RecipeError, match="gguf-f16 stores 16-bit weights"):
        phipack.build(checkpoint, "gguf-f16", tmp_path / "out", calibration="full")
    with pytest.raises(CalibrationError, match="measures nothing"):
        phipack.calibrate(checkpoint, level="none")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("checkpoint")
def test_an_importance_matrix_goes_out_and_comes_in(command: InProcess) -> None:
    """What light calibration has learned is all in it: the bundle of the matrix has the same weights."""
    assert "importance matrix: matrix.gguf\n" in command("calibrate", "checkpoint", "--imatrix", "matrix.gguf").stdout
    command(*BUILD, "--imatrix", "matrix.gguf")
    command("build", "checkpoint", "--recipe", "onnx-int4", "--calibration", "light", "-o", "text")
    made, of_text = open_bundle(Path("out")), open_bundle(Path("text"))
    entry = made.manifest.recipe.calibration
    assert entry is not None
    assert (entry.level, entry.tokens, entry.text) == ("light", 0, digest_of_file(Path("matrix.gguf")))
    assert {"torch"} == of_text.manifest.tools.keys() - made.manifest.tools.keys()  # it measured one of the two
    assert "calibration   light: an importance matrix, sha256:" in command("inspect", "out").stdout
    written, other = (bundle.file("model.onnx.data").read_bytes() for bundle in (made, of_text))
    same = np.frombuffer(written, np.uint8) == np.frombuffer(other, np.uint8)
    assert same.mean() > 0.99  # sums are written in float32: a scale may differ in its last bit


@pytest.mark.usefixtures("checkpoint")
def test_an_importance_matrix_of_another_model_is_refused(command: InProcess) -> None:
    write_tiny(Path("other"), intermediate=96)
    command("calibrate", "other", "--imatrix", "matrix.gguf")
    assert "this model's has rows of" in command(*BUILD, "--imatrix", "matrix.gguf", expect=1).stderr
    Path("damaged.gguf").write_bytes(Path("matrix.gguf").read_bytes()[:500])
    assert "damaged.gguf" in command(*BUILD, "--imatrix", "damaged.gguf", expect=1).stderr
    small = write_tiny(Path("small"), family="phi3small")
    done = command("calibrate", str(small), "--imatrix", "none.gguf", expect=1)
    assert "llama.cpp has no graph for Phi-3-small" in done.stderr
    assert not Path("out").exists()
    assert not Path("none.gguf").exists()


def test_recipes_say_how_they_are_calibrated(command: InProcess) -> None:
    rows = json.loads(command("recipes", "--json").stdout)["result"]["recipes"]
    assert {row["calibration"] for row in rows if row["bits"] >= 8} == {"none"}
    assert "calibration" in command("recipes").stdout.splitlines()[0]


def test_inputs_that_overflow_are_named_and_in_no_importance_matrix(command: InProcess, tmp_path: Path) -> None:
    name = write_overflowing(tmp_path / "checkpoint")
    assert f"not finite, on its text: {name}\n" in command("calibrate", "checkpoint").stderr
    refused = command("calibrate", "checkpoint", "--imatrix", "matrix.gguf", expect=1).stderr
    assert f"what {name} is multiplied with is infinite" in refused
    assert not Path("matrix.gguf").exists()
