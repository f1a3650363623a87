"""A budget on the command line and in the API: spent to the byte or refused, and shown wherever the bundle is."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import phipack
from phipack.api.plotting import plot_sensitivities
from phipack.errors import BundleError, CalibrationError, RecipeError, SetupError
from registry.bundle.folder import open_bundle
from targets.calibration import CalibrationSettings
from tests.support.checkpoints import write_tiny
from tests.support.command_line import InProcess

BUILD = ("build", "checkpoint", "--recipe", "gguf-q4_0", "-o", "out")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "checkpoint")


@pytest.mark.usefixtures("checkpoint")
def test_a_bundle_with_a_budget_says_how_it_was_spent(command: InProcess) -> None:
    assert "out: gguf-q4_0 (light, at most 100 kB), " in command(*BUILD, "--at-most", "100kB").stdout
    manifest = open_bundle(Path("out")).manifest
    size = sum(file.stat().st_size for file in Path("out").iterdir() if file.name != "manifest.json")
    assert 99_000 < size <= 100_000
    shown = command("inspect", "out").stdout
    assert f"budget        at most 100 kB: predicted {size:,} B, has {size:,} B; " in shown
    assert "most sensitive matrix" in shown
    assert "estimated cost of all 10 matrices: " in shown
    form = json.loads(command("inspect", "out", "--json").stdout)["result"]
    budget = form["budget"]
    assert (budget["asked"], budget["predicted_bytes"], budget["actual_bytes"]) == ("at most 100000 B", size, size)
    assert sum(budget["types"].values()) == len(form["manifest"]["recipe"]["budget"]["matrices"]) == 10
    sensitivities = [one["sensitivity"] for one in budget["most_sensitive"]]
    assert sensitivities == sorted(sensitivities, reverse=True)
    weights = sum(one.bytes for one in manifest.recipe.weights)
    assert budget["bits_per_weight"] == pytest.approx(8 * weights / manifest.model.parameters, abs=1e-4)
    assert budget["cost"] == pytest.approx(sum(one.cost for one in manifest.recipe.budget.matrices))  # type: ignore[union-attr]
    _draws(command)


def _draws(command: InProcess) -> None:
    command("inspect", "out", "--plot", "picture.png", "--json")
    assert Path("picture.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert "name a file in .svg or .png" in command("inspect", "out", "--plot", "picture.gif", expect=1).stderr
    assert "is a checkpoint" in command("inspect", "checkpoint", "--plot", "none.svg", expect=2).stderr
    assert not Path("none.svg").exists()


@pytest.mark.usefixtures("checkpoint")
def test_a_bundle_without_a_budget_has_nothing_to_draw(command: InProcess) -> None:
    command(*BUILD, "--calibration", "none")
    form = json.loads(command("inspect", "out", "--json").stdout)["result"]
    assert form["budget"] is None
    assert "budget" not in command("inspect", "out").stdout
    with pytest.raises(BundleError, match="was built without a budget"):
        plot_sensitivities("out", "none.svg")
    assert not Path("none.svg").exists()


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--at-most", "1GB", "--bits", "4"), 2, "--at-most and --bits exclude one another"),
        (("--at-most", "fit"), 2, "--at-most fit needs --target"),
        (("--at-most", "100 kb"), 1, "'100 kb' is not a size"),
        (("--bits", "0.5"), 1, "0.5 bits per weight is outside of what recipes can store"),
        (("--bits", "9"), 1, "the smallest choice of types takes 4.577 bits, the largest 8.565 bits"),
        (("--at-most", "1kB"), 1, "at most 1000 B: the smallest choice of types takes 81,197 B, the largest 138,541"),
        (("--bits", "5", "--calibration", "none"), 1, 'a budget (5 bits) with calibration "none"'),
        (("--bits", "5", "--recipe", "gguf-f16"), 1, "a budget (5 bits) for gguf-f16, which stores all weights in 16"),
        (("--at-most", "9GB", "--target", "iphone-15"), 1, "gguf-q4_0 does not fit iphone-15"),
    ],
)
def test_what_can_not_be_spent_is_refused_before_anything_is_read(
    command: InProcess, words: tuple[str, ...], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def walk(*_: object, **__: object) -> None:
        raise AssertionError("the checkpoint is run")

    monkeypatch.setattr("builders.reference.logits.hidden_states", walk)
    monkeypatch.setattr("builders.build.build_request", walk)
    assert said in command(*BUILD, *words, expect=code).stderr
    assert not Path("out").exists()


def test_an_importance_matrix_has_no_sensitivities(checkpoint: Path, tmp_path: Path) -> None:
    matrix = CalibrationSettings(imatrix=tmp_path / "matrix.gguf")
    with pytest.raises(CalibrationError, match="an importance matrix does not have"):
        phipack.build(
            checkpoint,
            "gguf-q4_0",
            tmp_path / "out",
            calibration_settings=matrix,
            budget=phipack.Budget.of_bits(5),
        )
    with pytest.raises(RecipeError, match="needs a device to fit on"):
        phipack.build(checkpoint, "gguf-q4_0", tmp_path / "out", budget=phipack.Budget("fit"))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("checkpoint")
def test_a_target_limits_the_types(checkpoint: Path, tmp_path: Path) -> None:
    """All matrices of the tiny checkpoint have rows of 32s: on a phone it has Q4_0, IQ4_NL and Q8_0."""
    whole = phipack.build(checkpoint, "gguf-q4_0", tmp_path / "out", target="galaxy-s24", budget=phipack.Budget("fit"))
    assert whole.manifest.recipe.budget is not None
    assert {one.storage for one in whole.manifest.recipe.budget.matrices} <= {"Q4_0", "IQ4_NL", "Q8_0"}
    assert whole.manifest.recipe.budget.asked.startswith("at most ")


def test_drawing_says_what_to_install(monkeypatch: pytest.MonkeyPatch, made_up: Callable[[], Any]) -> None:
    imported = builtins.__import__

    def without_matplotlib(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(SetupError, match="drawing needs matplotlib") as caught:
        made_up()
    assert "[plot]" in caught.value.fix


@pytest.fixture
def made_up() -> Callable[[], Any]:
    """Draw a made-up budget of two layers and a head, one of whose matrices has no sensitivity."""
    from phipack.api.plotting import _drawn
    from registry.bundle.manifest import BudgetEntry, MatrixEntry

    names = [
        f"model.layers.{layer}.{kind}.weight" for layer in (0, 1) for kind in ("self_attn.o_proj", "mlp.down_proj")
    ]
    matrices = [
        MatrixEntry(name=name, storage=kind, bytes=1, sensitivity=sensitivity, cost=sensitivity * share)
        for name, kind, share, sensitivity in zip(
            [*names, "lm_head.weight"],
            ("Q4_0", "Q8_0", "Q6_K", "Q4_0", "Q6_K"),
            (1.0, 0.0025, 0.03, 1.0, 0.03),
            (1e-4, 2e-2, 3e-3, 0.0, 5e-3),
            strict=True,
        )
    ]
    return lambda: _drawn(BudgetEntry(asked="4.2 bits", bytes=5, matrices=matrices), "gguf-q4_0", "svg")


def test_the_picture_names_kinds_types_and_units(made_up: Callable[[], Any]) -> None:
    drawn = made_up()
    assert drawn == made_up()
    text = re.findall(r"<!-- (.*?) -->", drawn.decode())  # matplotlib's own note of each text that it draws as curves
    for said in ("o_proj", "down_proj", "lm_head", "layer", "Q4_0 (2)", "Q6_K (2)", "Q8_0 (1)"):
        assert said in text
    assert text.index("Q4_0 (2)") < text.index("Q6_K (2)") < text.index("Q8_0 (1)")
    assert any("nats" in one for one in text)
    assert any("no divergence" in one for one in text)
    assert any("gguf-q4_0, 4.2 bits" in one for one in text)
