"""Tokenizers that a checkpoint brings: files are read, code is not run."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from builders.tokenizer import load_tokenizer
from targets.errors import CheckpointError
from tests.support.checkpoints import write_json
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

    if tokenizer_class == "LlamaTokenizer":  # transformers has one of this name: the checkpoint's is passed over
        assert load_tokenizer(folder).encode("the town")
    else:
        with pytest.raises(CheckpointError, match="without running code from the checkpoint") as refused:
            load_tokenizer(folder)
        assert refused.value.fix

    assert not ran.exists()
    assert sys.stdin.read() == "y\n"
