"""Keys: another version of what a result depends on makes it again."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from builders.matrix import keys
from builders.matrix.keys import CalibrationKey, build_key, validation_key
from targets.recipes import recipe_named

CHECKPOINT, TEXT = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def changed_by(monkeypatch: pytest.MonkeyPatch, package: str, recipe: str, calibration: CalibrationKey | None) -> bool:
    """Return whether a build has another key with another version of a package."""
    key = build_key(CHECKPOINT, recipe_named(recipe), 256, calibration)
    with monkeypatch.context() as patched:
        patched.setattr(keys, "version", lambda name: "99" if name == package else version(name))
        return build_key(CHECKPOINT, recipe_named(recipe), 256, calibration) != key


@pytest.mark.parametrize("recipe", ["gguf-q4_k_m", "onnx-int4", "coreml-int4"])
@pytest.mark.parametrize("package", ["numpy", "transformers", "tokenizers", "sentencepiece", "jinja2"])
def test_what_reads_the_tokenizer_is_an_input_of_a_build(
    monkeypatch: pytest.MonkeyPatch, recipe: str, package: str
) -> None:
    """Without a tokenizer.json one is made with them, and goes into the bundle; so do notes on the chat template."""
    assert changed_by(monkeypatch, package, recipe, None)
    assert changed_by(monkeypatch, package, recipe, CalibrationKey("light", TEXT))


def test_what_a_build_does_not_use_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not changed_by(monkeypatch, "torch", "gguf-q4_k_m", None)
    assert changed_by(monkeypatch, "torch", "gguf-q4_k_m", CalibrationKey("light", TEXT))
    assert not changed_by(monkeypatch, "lm-eval", "gguf-q4_k_m", None)


def test_the_harness_counts_where_tasks_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for tasks in (None, TEXT):
        found = set()
        for harness in ("1", "2"):
            monkeypatch.setattr(keys, "version", {"lm-eval": harness}.get)
            found.add(validation_key("a" * 32, "gguf", {"tasks": tasks}))
        assert len(found) == (1 if tasks is None else 2)
