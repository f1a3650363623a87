"""Tokenizers that a checkpoint brings: files are read, code is not run."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from builders.tokenizer import load_tokenizer
from targets.errors import CheckpointError
from tests.support.checkpoints import edit_json, write_json
from tests.support.sentencepiece_folder import write_sentencepiece


@pytest.mark.parametrize("tokenizer_class", ["OwnTokenizer", "LlamaTokenizer"])
def test_a_tokenizer_class_of_the_checkpoint_is_never_run(
    tmp_path: Path, tokenizer_class: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))  # whoever would answer the library's question with yes
    ran = tmp_path / "ran"
    folder = write_sentencepiece(tmp_path / "checkpoint")
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    config |= {"tokenizer_class": tokenizer_class, "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    write_json(folder / "tokenizer_config.json", config)
    (folder / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import LlamaTokenizer\n"
        "class OwnTokenizer(LlamaTokenizer): pass\n"
    )

    assert load_tokenizer(folder).encode("the town")

    assert not ran.exists()
    assert sys.stdin.read() == "y\n"


TEXTS = (
    "",
    " ",
    "   the",
    "the town",
    "\u2581the",
    " <|user|>\n  the <|end|>there",
    "<|end|>",
    "n\u00e4ive \U0001f642\n\n x  ",
)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_sentencepiece_is_converted_to_the_form_of_llama_2s_tokenizer(tmp_path: Path, model_type: str) -> None:
    import transformers

    folder = write_sentencepiece(tmp_path / "checkpoint", model_type)
    if model_type == "unigram":  # fewer pieces: the added tokens follow them, whatever ids they had
        edit_json(folder / "tokenizer_config.json", added_tokens_decoder={})
    ours = load_tokenizer(folder)
    written = json.loads(ours.to_json())
    assert [step["type"] for step in written["normalizer"]["normalizers"]] == ["Prepend", "Replace"]
    assert written["pre_tokenizer"] is None
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(theirs).__name__ == "TokenizersBackend"  # which reads the model as SentencePiece does
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=True) == theirs.encode(text)
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("model_type", ["phi3", "llama"])
def test_config_json_decides_the_class_from_wherever_it_is(tmp_path: Path, model_type: str) -> None:
    """An adapter's folder has a tokenizer and no config.json: the base's decides, as in the merged folder."""
    import transformers

    folder = write_sentencepiece(tmp_path / "checkpoint")
    edit_json(folder / "config.json", model_type=model_type)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    elsewhere = tmp_path / "base"
    elsewhere.mkdir()
    (folder / "config.json").rename(elsewhere / "config.json")
    ours = load_tokenizer(folder, config_folder=elsewhere)
    for text in TEXTS:
        assert ours.encode(text, add_special_tokens=True) == theirs.encode(text)


@pytest.mark.parametrize("content", [b"", b"garbage", b"IQ== 0\nIg== 1\n"])
def test_what_is_no_sentencepiece_model_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_sentencepiece(tmp_path / "checkpoint")
    (folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: not a SentencePiece model") as refused:
        load_tokenizer(folder)
    assert refused.value.fix
