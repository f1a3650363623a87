"""Tiny checkpoints as Phi-4-mini's and Phi-4's repositories have them: config, real ranks, added tokens, chat template.

Only the first `RANKS` of the ranks are kept, and all that follows moves down with them: a token's merges have lower
ranks than itself, so the tokenizer splits text the same way, into shorter pieces.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from builders.tokenizer.tiktoken import tokenizer_json_of_ranks
from devtools import cl100k
from tests.support.checkpoints import Tiny, random_weights, write_json, write_weights
from tests.support.parity import LIKE_PHI_4_MINI

RANKS = 3000
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
PHI_4_MINI_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}"
    "{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI_4_TEMPLATE = (
    "{% for message in messages %}{% if (message['role'] == 'system') %}"
    "{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'user') %}"
    "{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'assistant') %}"
    "{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
# By their distance from the number of ranks, as released.
_O200K_RANKS, _CL100K_RANKS = 199998, 100256
_TOOLS = ("<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>")
MINI_TOKENS = {
    "<|endoftext|>": 199999,
    "<|endofprompt|>": 200018,
    "<|assistant|>": 200019,
    "<|end|>": 200020,
    "<|user|>": 200021,
    "<|system|>": 200022,
    **{token: 200023 + number for number, token in enumerate(_TOOLS)},
    "<|tag|>": 200028,
}
PHI_4_TOKENS = {
    "<|endoftext|>": 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    "<|im_start|>": 100264,
    "<|im_end|>": 100265,
    "<|im_sep|>": 100266,
    "<|endofprompt|>": 100276,
}


def write_phi_4_mini(folder: Path, **changes: Any) -> Path:
    """Write a Phi-4-mini of two layers: a head of 64 elements of which 48 are rotated, longrope, a tied head."""
    moved = {token: number - _O200K_RANKS + RANKS for token, number in MINI_TOKENS.items()}
    end, turn = moved["<|endoftext|>"], moved["<|end|>"]
    tiny = Tiny(**{**LIKE_PHI_4_MINI, "original_context": 256, "context": 1024, "window": 4096, **changes})
    config = tiny.config() | {"vocab_size": RANKS + 66, "embd_pdrop": 0.0, "attention_dropout": 0.0}
    _write_weights(folder, config, tiny, ids=(end, [turn, end]))
    added = {
        str(number): _added(token, special=token not in _TOOLS, rstrip=number > moved["<|endofprompt|>"])
        for token, number in moved.items()
    }
    _write_tokenizer(folder, "o200k", O200K, added, PHI_4_MINI_TEMPLATE, "<|endoftext|>")
    return folder


def write_phi_4(folder: Path, **changes: Any) -> Path:
    """Write a Phi-4 of two layers: whole heads, no longrope, a window that is null, a theta of 250,000."""
    named = {number - _CL100K_RANKS + RANKS: token for token, number in PHI_4_TOKENS.items()}
    dummies = (number for number in range(RANKS, RANKS + 96) if number not in named)
    named |= {number: f"<|dummy_{count}|>" for count, number in enumerate(dummies)}
    ids = {token: number for number, token in named.items()}
    tiny = Tiny(**{"hidden": 128, "heads": 8, "kv_heads": 2, **changes})
    config = tiny.config() | {"vocab_size": RANKS + 96, "rope_theta": 250000}
    end = ids["<|endoftext|>"]
    _write_weights(folder, config, tiny, ids=(end, [end, ids["<|im_end|>"]]))
    added = {str(number): _added(token, lstrip=True, rstrip=True) for number, token in sorted(named.items())}
    _write_tokenizer(folder, "cl100k", CL100K, added, PHI_4_TEMPLATE, "<|im_end|>")
    return folder


def _write_weights(folder: Path, config: dict[str, Any], tiny: Tiny, *, ids: tuple[int, list[int]]) -> None:
    folder.mkdir(parents=True)
    config |= {"bos_token_id": ids[0], "eos_token_id": ids[0], "pad_token_id": ids[0]}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": ids[0], "eos_token_id": ids[1]})
    write_weights(folder, random_weights(config, tiny.seed), dtype=tiny.dtype)


def _write_tokenizer(
    folder: Path, encoding: str, regex: str, added: dict[str, dict[str, Any]], template: str, end: str
) -> None:
    ranks = folder / "cl100k_base.tiktoken"  # under the one name that is converted
    with cl100k.ensure(encoding=encoding).open("rb") as stream:
        ranks.write_bytes(b"".join(islice(stream, RANKS)))
    content = json.loads(tokenizer_json_of_ranks(ranks, {"added_tokens_decoder": added}))
    ranks.unlink()
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Removed", "invert": True}
    content["pre_tokenizer"]["pretokenizers"][0] = split
    content["model"]["ignore_merges"] = False
    content["model"]["vocab"] |= {token["content"]: int(number) for number, token in added.items()}
    write_json(folder / "tokenizer.json", content)
    named = dict.fromkeys(("bos_token", "pad_token", "unk_token"), "<|endoftext|>") | {"eos_token": end}
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "chat_template": template, **named}
    write_json(folder / "tokenizer_config.json", config | {"added_tokens_decoder": added})


def _added(content: str, *, special: bool = True, lstrip: bool = False, rstrip: bool = False) -> dict[str, Any]:
    flags = {"lstrip": lstrip, "rstrip": rstrip, "normalized": False, "single_word": False}
    return {"content": content, "special": special, **flags}
