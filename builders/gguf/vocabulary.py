"""A Hugging Face tokenizer as llama.cpp reads it: tokens, types, scores or merges, the pre-tokenizer's name.

Two kinds: byte-level BPE (`tokenizer.ggml.model` "gpt2") and SentencePiece ("llama"), the latter from
`tokenizer.model` or a `tokenizer.json` of BPE with byte fallback.

Source: the GGUF specification and llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from builders.checkpoint import Checkpoint
from targets.errors import CheckpointError, UnsupportedModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # enum llama_token_type
_ADDED_SCORE, _PAD_SCORE = -1000.0, -10000.0
_GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass
class Vocabulary:
    """What goes under `tokenizer.ggml.*`. Every row of the embedding has a token; rows without one are unused."""

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    scores: list[float] | None = None
    merges: list[str] = field(default_factory=list)
    special: dict[str, int] = field(default_factory=dict)
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool | None = None

    def add_to(self, writer: Any) -> None:
        """Write the keys into a `gguf.GGUFWriter`."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.kinds)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        if self.merges:
            writer.add_token_merges(self.merges)
        for name, token in self.special.items():
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.add_space_prefix is not None:
            writer.add_add_space_prefix(self.add_space_prefix)


def read_vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    """Read a checkpoint's tokenizer.

    Raises:
        CheckpointError: it can't be read, or has ids past the vocabulary.
        UnsupportedModelError: llama.cpp has no such tokenizer.
    """
    files = checkpoint.tokenizer_files
    if "tokenizer.json" in files:
        try:
            content = json.loads(files["tokenizer.json"].read_bytes())
            vocabulary = _from_json(content, checkpoint)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{files['tokenizer.json']}: not a tokenizer: {error!r}") from error
    else:
        vocabulary = _from_sentencepiece(checkpoint)
    _add_special_ids(vocabulary, checkpoint)
    return vocabulary


def _from_json(content: dict[str, Any], checkpoint: Checkpoint) -> Vocabulary:
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise UnsupportedModelError(f"{checkpoint.path}: a {model.get('type')} tokenizer; llama.cpp gets BPE from us")
    added = {entry["id"]: entry for entry in content.get("added_tokens", [])}
    by_id = {number: token for token, number in model["vocab"].items()}
    by_id |= {number: entry["content"] for number, entry in added.items()}
    tokens, kinds = _laid_out(by_id, added, checkpoint)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if not model.get("byte_fallback"):
        post = content.get("post_processor")
        bos, eos = _adds(checkpoint, post, "bos"), _adds(checkpoint, post, "eos")
        return Vocabulary(
            "gpt2", _pre_tokenizer(content, checkpoint), tokens, kinds, None, merges, add_bos=bos, add_eos=eos
        )
    # SentencePiece BPE merges by score, the best first: a token's score is minus the rank of the merge that makes it.
    ranks = {merge.replace(" ", "", 1): rank for rank, merge in reversed(list(enumerate(merges, start=1)))}
    scores = [-float(ranks.get(token, 0)) for token in tokens]
    for number, token in enumerate(tokens):
        if kinds[number] == NORMAL and len(token) == len("<0x00>") and token.startswith("<0x"):
            kinds[number] = BYTE
        elif token == model.get("unk_token"):
            kinds[number] = UNKNOWN
        elif number in added:
            scores[number] = _ADDED_SCORE
        elif kinds[number] == UNUSED:
            scores[number] = _PAD_SCORE
    return Vocabulary(
        "llama",
        "default",
        tokens,
        kinds,
        scores,
        add_bos=_adds(checkpoint, content.get("post_processor"), "bos"),
        add_eos=_adds(checkpoint, content.get("post_processor"), "eos"),
        add_space_prefix=_prepends_space(content),
    )


def _from_sentencepiece(checkpoint: Checkpoint) -> Vocabulary:
    import sentencepiece

    path = checkpoint.tokenizer_files["tokenizer.model"]
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromFile(str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a SentencePiece model: {error}") from error
    added = {
        int(number): entry for number, entry in checkpoint.tokenizer_config.get("added_tokens_decoder", {}).items()
    }
    by_id = {number: processor.IdToPiece(number) for number in range(processor.vocab_size())}
    by_id |= {number: entry["content"] for number, entry in added.items()}
    tokens, kinds = _laid_out(by_id, added, checkpoint)
    scores = [_PAD_SCORE] * len(tokens)
    for number in range(processor.vocab_size()):
        scores[number] = processor.GetScore(number)
        kinds[number] = _piece_kind(processor, number)
    for number, entry in added.items():
        scores[number] = _ADDED_SCORE
        kinds[number] = CONTROL if entry.get("special") else USER_DEFINED
    config = checkpoint.tokenizer_config
    return Vocabulary(
        "llama",
        "default",
        tokens,
        kinds,
        scores,
        add_bos=bool(config.get("add_bos_token", True)),
        add_eos=bool(config.get("add_eos_token", False)),
        add_space_prefix=bool(config.get("add_prefix_space", True)),
    )


def _laid_out(
    by_id: dict[int, str], added: dict[int, dict[str, Any]], checkpoint: Checkpoint
) -> tuple[list[str], list[int]]:
    """Give every row of the embedding a token and a type."""
    size = checkpoint.architecture.vocabulary_size
    if by_id and max(by_id) >= size:
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer's id {max(by_id)} ({by_id[max(by_id)]!r}) is past the vocabulary "
            f"of {size}",
            fix="the tokenizer and the weights belong to different models, or the embedding was not resized",
        )
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(size)]
    kinds = [NORMAL if number in by_id else UNUSED for number in range(size)]
    for number, entry in added.items():
        kinds[number] = CONTROL if entry.get("special") else USER_DEFINED
    return tokens, kinds


def _piece_kind(processor: Any, number: int) -> int:
    if processor.IsUnknown(number):
        return UNKNOWN
    if processor.IsControl(number):
        return CONTROL
    if processor.IsUnused(number):
        return UNUSED
    return BYTE if processor.IsByte(number) else NORMAL


def _pre_tokenizer(content: dict[str, Any], checkpoint: Checkpoint) -> str:
    """Name the pre-tokenizer as llama.cpp knows it, by its definition: a wrong one would split text wrongly."""
    if content.get("normalizer"):
        raise UnsupportedModelError(f"{checkpoint.path}: llama.cpp's byte-level BPE has no normalizer")
    steps = _steps(content.get("pre_tokenizer"))
    match [step["type"] for step in steps]:
        case ["ByteLevel"] if steps[0].get("use_regex", True):
            return "gpt-2"
        case ["Digits", "ByteLevel"] if steps[0].get("individual_digits") and steps[1].get("use_regex", True):
            return "smollm"
        case ["Split", "ByteLevel"] if not steps[1].get("use_regex", True):
            pattern = steps[0].get("pattern", {}).get("Regex")
            if pattern == _LLAMA3_PATTERN:
                return "llama-bpe"
            if pattern == _GPT2_PATTERN:
                return "gpt-2"
    found = json.dumps(content.get("pre_tokenizer"))[:200]
    raise UnsupportedModelError(
        f"{checkpoint.path}: no pre-tokenizer of llama.cpp is known for {found}",
        fix="build an ONNX or Core ML recipe: their apps use tokenizer.json itself",
    )


def _steps(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return list(pre_tokenizer["pretokenizers"])
    return [pre_tokenizer]


def _adds(checkpoint: Checkpoint, post_processor: dict[str, Any] | None, which: str) -> bool:
    """Whether the tokenizer itself puts BOS before, or EOS after, a text: its post-processor says."""
    config = checkpoint.tokenizer_config
    token = config.get(f"{which}_token")
    content = token.get("content") if isinstance(token, dict) else token
    for step in (post_processor or {}).get("processors", [post_processor] if post_processor else []):
        if step.get("type") == "TemplateProcessing":
            return any(piece.get("SpecialToken", {}).get("id") == content for piece in step["single"])
    if post_processor is None and config.get("tokenizer_class") in ("LlamaTokenizer", "LlamaTokenizerFast"):
        return bool(config.get(f"add_{which}_token", which == "bos"))
    return False


def _prepends_space(content: dict[str, Any]) -> bool:
    normalizer = content.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    if any(step.get("type") == "Prepend" for step in steps):
        return True
    return (content.get("pre_tokenizer") or {}).get("prepend_scheme") in ("first", "always")


def _add_special_ids(vocabulary: Vocabulary, checkpoint: Checkpoint) -> None:
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    for key, name in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        token = checkpoint.tokenizer_config.get(f"{key}_token")
        content = token.get("content") if isinstance(token, dict) else token
        number = checkpoint.config.get(f"{key}_token_id")
        if isinstance(content, str) and content in ids:
            number = ids[content]
        if isinstance(number, int) and 0 <= number < len(vocabulary.tokens):
            vocabulary.special[name] = number
    # Ids that end an answer besides EOS: llama.cpp has one key for the end of a turn, and knows others by name.
    others = [token for token in checkpoint.stop_token_ids if token != vocabulary.special.get("eos")]
    turn_ends = [token for token in others if vocabulary.tokens[token] in ("<|end|>", "<|im_end|>", "<|eot_id|>")]
    if turn_ends or others:
        vocabulary.special["eot"] = (turn_ends or others)[0]
