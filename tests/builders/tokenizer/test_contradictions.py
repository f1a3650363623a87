"""Tokenizer files that contradict each other, or ask for what no runtime can do: noted or refused by name."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from builders.checkpoint import open_checkpoint
from builders.tokenizer import bundled_tokenizer, load_tokenizer
from targets.errors import CheckpointError, UnsupportedModelError
from targets.recipes import Format
from tests.support.checkpoints import SPECIAL, edit_json, write_json, write_tiny
from tests.support.sentencepiece_folder import write_sentencepiece
from tests.support.tokenizer_folders import write_folder

CONFIG = "tokenizer_config.json"
FLAGS = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
FORCED = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 499723\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "checkpoint")


def _flag(folder: Path, token: str, **flags: bool) -> None:
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["added_tokens"] = [t | flags if t["content"] == token else t for t in content["added_tokens"]]
    write_json(folder / "tokenizer.json", content)


@pytest.mark.parametrize("name", ["tokenizer.json", CONFIG, "chat_template.jinja", "tokenizer.model"])
def test_a_git_lfs_pointer_is_called_what_it_is(folder: Path, name: str) -> None:
    (folder / name).write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=rf"{name} is a git-lfs pointer") as refused:
        open_checkpoint(folder)
    assert "git lfs pull" in refused.value.fix


@pytest.mark.parametrize("key", ["split_special_tokens", FORCED])
def test_what_only_transformers_can_do_is_refused(folder: Path, key: str) -> None:
    edit_json(folder / CONFIG, **{key: True})
    with pytest.raises(UnsupportedModelError, match=key):
        load_tokenizer(folder)
    edit_json(folder / CONFIG, **{key: False})
    assert load_tokenizer(folder).encode("<|end|>") == [312]


def test_a_token_with_another_id_than_its_file_says_is_refused(folder: Path) -> None:
    listed = {"319": {"content": "<|end|>", "special": True, **FLAGS}}
    edit_json(folder / CONFIG, added_tokens_decoder=listed)
    with pytest.raises(CheckpointError, match=r"decoder says that '<\|end\|>' is id 319, transformers .* 312"):
        load_tokenizer(folder)
    edit_json(folder / CONFIG, added_tokens_decoder=...)
    write_json(folder / "added_tokens.json", {"<|new|>": 300})
    with pytest.raises(CheckpointError, match=r"added_tokens\.json says that '<\|new\|>' is id 300"):
        load_tokenizer(folder)


Change = Callable[[Path], object]
UNREAD: dict[str, Change] = {
    "vocab.json": lambda f: write_json(f / "vocab.json", {"the": 5}),
    "tokenizer.model": lambda f: (f / "tokenizer.model").write_bytes(
        (write_sentencepiece(f.parent / "other") / "tokenizer.model").read_bytes()
    ),
    "cl100k_base.tiktoken": lambda f: (f / "cl100k_base.tiktoken").write_bytes(
        b"".join(b"%s %d\n" % (base64.b64encode(bytes([n])), n) for n in range(256))
    ),
}


@pytest.mark.parametrize("name", UNREAD)
def test_a_file_that_transformers_passes_over_is_noted_where_it_contradicts(folder: Path, name: str) -> None:
    before = load_tokenizer(folder).to_json()
    UNREAD[name](folder)
    bundled = bundled_tokenizer(open_checkpoint(folder), "coreml")
    assert bundled.files["tokenizer.json"] == before
    assert name not in bundled.files
    assert [note for note in bundled.notes if note.startswith(f"{name} says that ")] == list(bundled.notes)
    assert len(bundled.notes) == 1


def test_files_that_agree_are_not_noted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "checkpoint", "pieces, as released")
    write_json(folder / "added_tokens.json", SPECIAL)
    assert bundled_tokenizer(open_checkpoint(folder), "onnx").notes == ()


@pytest.mark.parametrize("kind", ["onnx", "coreml"])
def test_a_flag_that_a_runtime_does_not_know_is_noted_or_refused(folder: Path, kind: Format) -> None:
    _flag(folder, "<|user|>", lstrip=True, rstrip=True)  # both runtimes obey these flags
    assert bundled_tokenizer(open_checkpoint(folder), kind).notes == ()
    _flag(folder, "<|user|>", single_word=True)
    assert any("<|user|>" in note for note in bundled_tokenizer(open_checkpoint(folder), kind).notes)
    edit_json(folder / CONFIG, chat_template="{{ messages[0].content }}x<|user|>y")  # inside a word
    with pytest.raises(UnsupportedModelError, match=r"single_word.*every chat would get other ids"):
        bundled_tokenizer(open_checkpoint(folder), kind)


@pytest.mark.parametrize("name", ["added_tokens.json", "vocab.json", "special_tokens_map.json", "tokenizer.4.0.0.json"])
def test_the_digest_covers_every_tokenizer_file(folder: Path, name: str) -> None:
    before = open_checkpoint(folder).digest
    write_json(folder / name, {})
    assert open_checkpoint(folder).digest != before
