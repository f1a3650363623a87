"""Phi-3's real tokenizer: its SentencePiece model, rebuilt from the vocabulary of llama.cpp's own tests (MIT).

It writes tokenizer.model, tokenizer_config.json and vectors.json to CACHE/phi3-vocabulary/. The vectors are texts with
the ids of transformers' own tokenizer, from llama.cpp's test (`models/ggml-vocab-phi-3.gguf.inp` and `.out`).
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from devtools.packages import LLAMA_CPP, default_cache, pinned
from devtools.phi3_from_gguf import write_json
from registry.files.staging import staged_folder

_MEMBER = "/vendor/llama.cpp/models/ggml-vocab-phi-3.gguf"
_BETWEEN = "\n__ggml_vocab_test__\n"
_PIECES = 32000  # Llama-2's; Phi-3's own tokens come after them
_ADDED = range(_PIECES, _PIECES + 11)
_NOT_STRIPPING = ("<unk>", "<s>", "<|endoftext|>")  # every other added token strips the white space after it


def ensure(cache: Path | None = None) -> Path:
    """Return the folder. It is created first if it is missing.

    Raises:
        BuildError: the package can't be fetched, or is another.
    """
    cache = cache or default_cache()
    folder = cache / "phi3-vocabulary"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=pinned(LLAMA_CPP, cache).parent) as aside:
            files = _unpacked(pinned(LLAMA_CPP, cache), Path(aside))
            with staged_folder(folder) as staging:
                _write_tokenizer(files[""], staging)
                texts = files[".inp"].read_text("utf-8").removesuffix(_BETWEEN).split(_BETWEEN)
                ids = [[int(number) for number in line.split()] for line in files[".out"].read_text().splitlines()]
                write_json(staging / "vectors.json", list(zip(texts, ids, strict=True)))
    return folder


def vectors(folder: Path) -> list[tuple[str, list[int]]]:
    """Return the texts with their ids."""
    return [(text, ids) for text, ids in json.loads((folder / "vectors.json").read_bytes())]


def _unpacked(archive: Path, place: Path) -> dict[str, Path]:
    """Unpack the vocabulary and its vectors. Return their paths by the ends of their names."""
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            _, inside, end = member.name.partition(_MEMBER)
            if inside and end in ("", ".inp", ".out"):
                member.name = f"vocabulary{end}"
                tar.extract(member, place, filter="data")
                found[end] = place / member.name
    return found


def _write_tokenizer(gguf_file: Path, folder: Path) -> None:
    import gguf
    from sentencepiece import sentencepiece_model_pb2

    fields = gguf.GGUFReader(str(gguf_file)).fields
    tokens, scores, kinds, template = (
        fields[key].contents()
        for key in (
            "tokenizer.ggml.tokens",
            "tokenizer.ggml.scores",
            "tokenizer.ggml.token_type",
            "tokenizer.chat_template",
        )
    )
    schema: Any = sentencepiece_model_pb2
    piece_type = schema.ModelProto.SentencePiece
    model = schema.ModelProto()
    for number in range(_PIECES):
        kind = {0: piece_type.UNKNOWN, 1: piece_type.CONTROL, 2: piece_type.CONTROL}.get(number)
        if kind is None:
            kind = piece_type.BYTE if kinds[number] == gguf.TokenType.BYTE else piece_type.NORMAL
        model.pieces.add(piece=tokens[number], score=scores[number] if number > 2 else 0.0, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = schema.TrainerSpec.BPE
    trainer.vocab_size, trainer.byte_fallback, trainer.pad_id = _PIECES, True, -1
    normalizer.name, normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces = "identity", True, False
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    added = {number: tokens[number] for number in (0, 1, 2, *_ADDED)}
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizer",
            "legacy": False,
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "unk_token": "<unk>",
            "chat_template": template,
            "added_tokens_decoder": {
                str(number): {
                    "content": token,
                    "special": number != 2,  # </s>
                    "rstrip": token not in _NOT_STRIPPING,
                    "lstrip": False,
                    "single_word": False,
                    "normalized": False,
                }
                for number, token in added.items()
            },
        },
    )
