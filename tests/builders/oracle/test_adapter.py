"""A base with an adapter is held to peft's merge of transformers' model."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from builders.checkpoint import open_checkpoint
from builders.checkpoint.adapter import MergedCheckpoint, merge
from builders.checkpoint.adapter.changes import LowRank
from builders.oracle import ask_oracle, record
from builders.oracle.record import Record
from targets.errors import MeasurementError
from tests.support.adapters import SEPARATE, SMALL, write_adapter
from tests.support.checkpoints import write_tiny


def merged(folder: Path, family: str = "phi3", **changes: Any) -> MergedCheckpoint:
    base = write_tiny(folder / "base", family=family, layers=3, tied=family == "phi3small")
    return merge(open_checkpoint(base), write_adapter(base, folder / "adapter", **changes))


def with_changes(checkpoint: MergedCheckpoint, **changes: Any) -> MergedCheckpoint:
    """The same, with another reading of every product."""
    misread = {
        name: replace(one, low_rank=None if one.low_rank is None else replace(one.low_rank, **changes))
        for name, one in checkpoint.changes.items()
    }
    return replace(checkpoint, changes=misread)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("phi3", {}),
        ("phi3", {"use_rslora": True}),
        ("phi3", {"layers_to_transform": [2]}),  # not among the layers that are computed
        ("phi3", {"layers_to_transform": [2], "modules_to_save": ["lm_head"]}),
        ("phi3", {"use_dora": True}),
        ("phi3", {"vocabulary_size": 330, "save_embedding_layers": True, "trainable_token_indices": [325]}),
        ("llama", {"target_modules": SEPARATE}),
        ("phi3small", {"target_modules": SMALL, "task_type": None}),
        ("phi3small", {"target_modules": SMALL, "task_type": None, "use_dora": True}),
    ],
)
def test_a_merge_agrees_with_pefts(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    found = ask_oracle(merged(tmp_path, family, **changes))
    assert found.log_probability_difference < 1e-3
    assert " and peft 0." in found.on


@pytest.mark.parametrize("package", ["peft", "transformers", "torch", "tokenizers", "sentencepiece", "jinja2"])
def test_a_verdict_holds_for_the_packages_that_gave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """A merged checkpoint's; that of a base holds whatever peft is installed."""
    checkpoint = merged(tmp_path)
    base = open_checkpoint(tmp_path / "base")
    for one in (checkpoint, base):
        Record(tmp_path / "cache", one).write(MeasurementError("found", fix="none"))
    monkeypatch.setattr(record, "version", lambda name: "99" if name == package else version(name))
    assert Record(tmp_path / "cache", checkpoint).read() is None
    if package == "peft":
        with pytest.raises(MeasurementError, match="found"):
            Record(tmp_path / "cache", base).read()
    else:
        assert Record(tmp_path / "cache", base).read() is None


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_the_merge_is_rounded_to_what_is_stored_whatever_the_config_says(tmp_path: Path, dtype: str) -> None:
    base = write_tiny(tmp_path / "base", dtype=dtype, tied=True)  # its config says bfloat16
    adapter = write_adapter(base, tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"])
    assert ask_oracle(merge(open_checkpoint(base), adapter)).log_probability_difference < 1e-4


@pytest.mark.parametrize(
    ("family", "changes"), [("phi3", {}), ("phi3small", {"target_modules": SMALL, "task_type": None})]
)
def test_a_misread_adapter_is_noticed(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    checkpoint = merged(tmp_path, family, **changes)
    one = next(change.low_rank for change in checkpoint.changes.values() if change.low_rank is not None)
    assert isinstance(one, LowRank)
    with pytest.raises(MeasurementError, match="What differs first"):
        ask_oracle(with_changes(checkpoint, scaling=one.scaling * 1.1))
    with pytest.raises(MeasurementError, match="What differs first"):
        ask_oracle(replace(checkpoint, changes={}))
