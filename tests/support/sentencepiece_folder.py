"""A tiny checkpoint with a SentencePiece tokenizer, trained in a moment, and added tokens as Phi-3 has them."""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece

from tests.support.checkpoints import CHAT_TEMPLATE, SPECIAL, write_json, write_tiny

_TEXT = (
    "the then there an in on naive don't there's def return of the model and the house in the town; by quick fox jumps"
)
PIECES = min(SPECIAL.values())  # <unk>, <s>, </s>, 256 bytes, and what is learnt; added tokens follow without a gap


def write_sentencepiece(folder: Path, model_type: str = "bpe") -> Path:
    """Write the checkpoint; `tokenizer.model` takes the place of `tokenizer.json`."""
    write_tiny(folder)
    (folder / "tokenizer.json").unlink()
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter([_TEXT] * 20),
        model_writer=trained,
        model_type=model_type,
        vocab_size=PIECES,
        hard_vocab_limit=model_type == "bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        minloglevel=3,
    )
    (folder / "tokenizer.model").write_bytes(trained.getvalue())
    added = {0: _added("<unk>"), 1: _added("<s>"), 2: _added("</s>", special=False, rstrip=True)}
    added |= {number: _added(token, rstrip=token != "<|endoftext|>") for token, number in SPECIAL.items()}
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizer",
            "legacy": True,
            "add_bos_token": True,
            "bos_token": "<s>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "unk_token": "<unk>",
            "chat_template": CHAT_TEMPLATE,
            "added_tokens_decoder": {str(number): token for number, token in sorted(added.items())},
        },
    )
    return folder


def _added(content: str, *, special: bool = True, rstrip: bool = False) -> dict[str, object]:
    return {
        "content": content,
        "special": special,
        "rstrip": rstrip,
        "lstrip": False,
        "single_word": False,
        "normalized": False,
    }
