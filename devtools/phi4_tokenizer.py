"""Writes the tokenizers of Phi-4-mini and Phi-4 from tiktoken's ranks, with added tokens and templates as released.

With fewer ranks, all that follows them moves down: a token's merges have lower ranks than itself, so text is split in
the same way, into shorter pieces.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from builders.tokenizer.tiktoken import tokenizer_json_of_ranks
from devtools import cl100k

_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What the released templates write, tools in the system's message included.
_MINI_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}"
    "{{ '<|tool|>' + message['tools'] + '<|/tool|>' }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% else %}{{ eos_token }}{% endif %}"
)
_PHI_4_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] in ['system', 'user', 'assistant'] %}"
    "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
)
_TOOLS = ("<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>")
_MINI_TOKENS = {
    "<|endoftext|>": 199999,
    "<|endofprompt|>": 200018,
    "<|assistant|>": 200019,
    "<|end|>": 200020,
    "<|user|>": 200021,
    "<|system|>": 200022,
    **{token: 200023 + number for number, token in enumerate(_TOOLS)},
    "<|tag|>": 200028,
}
_PHI_4_TOKENS = {
    "<|endoftext|>": 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    "<|im_start|>": 100264,
    "<|im_end|>": 100265,
    "<|im_sep|>": 100266,
    "<|endofprompt|>": 100276,
}


@dataclass(frozen=True)
class Released:
    """A released tokenizer. `padding`: rows of the embedding after the ranks. `stops`: ends of an answer."""

    encoding: str
    ranks: int
    padding: int
    regex: str
    tokens: dict[str, int]
    template: str
    eos: str
    stops: tuple[str, ...]


RELEASED = {
    "phi-4-mini": Released(
        "o200k", 199998, 66, _O200K, _MINI_TOKENS, _MINI_TEMPLATE, "<|endoftext|>", ("<|end|>", "<|endoftext|>")
    ),
    "phi-4": Released(
        "cl100k", 100256, 96, _CL100K, _PHI_4_TOKENS, _PHI_4_TEMPLATE, "<|im_end|>", ("<|endoftext|>", "<|im_end|>")
    ),
}


def write_tokenizer(folder: Path, model: str, *, ranks: int | None = None) -> dict[str, int]:
    """Write `tokenizer.json` and `tokenizer_config.json` of a model. Return the ids of its added tokens.

    `ranks`: how many to keep; None for all.
    """
    released = RELEASED[model]
    kept = released.ranks if ranks is None else ranks
    ids = {token: number - released.ranks + kept for token, number in _all_tokens(released).items()}
    added = {str(number): _added(model, token) for token, number in sorted(ids.items(), key=lambda entry: entry[1])}
    place = folder / "cl100k_base.tiktoken"  # under the one name that is converted
    with cl100k.ensure(encoding=released.encoding).open("rb") as stream:
        place.write_bytes(b"".join(islice(stream, kept)))
    content = json.loads(tokenizer_json_of_ranks(place, {"added_tokens_decoder": added}))
    place.unlink()
    split = {"type": "Split", "pattern": {"Regex": released.regex}, "behavior": "Removed", "invert": True}
    content["pre_tokenizer"]["pretokenizers"][0] = split
    content["model"]["ignore_merges"] = False
    content["model"]["vocab"] |= ids
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    named = dict.fromkeys(("bos_token", "pad_token", "unk_token"), "<|endoftext|>") | {"eos_token": released.eos}
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "chat_template": released.template}
    config |= {**named, "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), "utf-8")
    return ids


def _all_tokens(released: Released) -> dict[str, int]:
    """Return the added tokens' ids as released. In Phi-4 every row after the ranks has one."""
    if released.encoding == "o200k":
        return released.tokens
    taken = set(released.tokens.values())
    free = (number for number in range(released.ranks, released.ranks + released.padding) if number not in taken)
    return released.tokens | {f"<|dummy_{count}|>": number for count, number in enumerate(free)}


def _added(model: str, content: str) -> dict[str, Any]:
    """Return an added token with its flags: which of them swallow white space differs by model."""
    is_mini = model == "phi-4-mini"
    strips = content not in ("<|endoftext|>", "<|endofprompt|>") if is_mini else True
    flags = {"lstrip": not is_mini, "rstrip": strips, "normalized": False, "single_word": False}
    return {"content": content, "special": content not in _TOOLS, **flags}
