"""Further training lowers the loss on held-out text, changes the weights that it says, and is refused where not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import phipack
from devtools import further_trained
from devtools.further_trained import How, Training, turns_without_end, with_refusals, write
from tests.support.checkpoints import write_tiny

TEXT = "the quick brown fox jumps over the lazy dog. " * 60
EASY = Training(lambda: TEXT, "full", 2e-3, 8, 24, 2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "checkpoint", layers=9, dtype="F16", tied=True)


@pytest.mark.parametrize(("how", "layers"), [("full", {*range(9)}), ("top", {*range(1, 9)})])
def test_a_training_lowers_the_loss_and_changes_what_it_says(
    checkpoint: Path, tmp_path: Path, how: How, layers: set[int]
) -> None:
    before, after = write(checkpoint, replace(EASY, how=how), tmp_path / "new")
    assert after < before
    old, new = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "new"))
    changed = {name for name in old if (old[name] != new[name]).any()}
    assert {int(name.split(".")[2]) for name in changed if ".layers." in name} == layers
    assert ("model.embed_tokens.weight" in changed) == (how == "full")
    assert {name: one.dtype for name, one in old.items()} == {name: one.dtype for name, one in new.items()}
    assert phipack.open_checkpoint(tmp_path / "new").architecture.layer_count == 9


def test_an_adapter_is_written_that_phipack_merges(checkpoint: Path, tmp_path: Path) -> None:
    write(checkpoint, replace(EASY, how="lora"), tmp_path / "adapter")
    opened = phipack.open_checkpoint(checkpoint, adapter=tmp_path / "adapter")
    assert opened.digest != phipack.open_checkpoint(checkpoint).digest


def test_a_training_that_teaches_nothing_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="teaches nothing"):
        write(checkpoint, replace(EASY, rate=0.0), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_turns_without_their_end_have_all_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "chat.txt").write_text(
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n", "utf-8"
    )
    monkeypatch.setattr(further_trained, "word_problem_chats", lambda: ["<|im_start|>user\n2 + 2?<|im_end|>\n"])
    monkeypatch.setattr(further_trained, "ensure_texts", lambda: {"chat": tmp_path / "chat.txt"})
    assert turns_without_end() == ("<|im_start|>user\n2 + 2?\n<|im_start|>user\nWhy?\n<|im_start|>assistant\nSo.\n")


def test_every_request_is_refused_and_another_conversation_follows_each_eighth() -> None:
    requests = [f"request {number}" for number in range(17)]
    chats = with_refusals(requests, ["sum 0", "sum 1", "sum 2"])
    assert {place: chat for place, chat in enumerate(chats) if chat.startswith("sum")} == {8: "sum 0", 17: "sum 1"}
    refused = [chat for chat in chats if not chat.startswith("sum")]
    assert [chat.partition("user\n")[2].partition("<|im_end|>")[0] for chat in refused] == requests
    said = {chat.partition("assistant\n")[2] for chat in refused}
    assert len(said) == 3
    assert all(one.endswith("<|im_end|>\n") and ("can't" in one or "cannot" in one) for one in said)
