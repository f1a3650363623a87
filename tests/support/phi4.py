"""Tiny checkpoints like Phi-4-mini's and Phi-4's, with the first `RANKS` ranks of their real tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from devtools.phi4_tokenizer import RELEASED, write_tokenizer
from tests.support.checkpoints import Tiny, random_weights, write_json, write_weights
from tests.support.parity import LIKE_PHI_4_MINI

RANKS = 3000


def write_phi_4_mini(folder: Path, **changes: Any) -> Path:
    """Write a Phi-4-mini of two layers: a head of 64 elements of which 48 are rotated, longrope, a tied head."""
    tiny = Tiny(**{**LIKE_PHI_4_MINI, "original_context": 256, "context": 1024, "window": 4096, **changes})
    return _write(folder, "phi-4-mini", tiny, {"embd_pdrop": 0.0, "attention_dropout": 0.0})


def write_phi_4(folder: Path, **changes: Any) -> Path:
    """Write a Phi-4 of two layers: whole heads, no longrope, a window that is null, a theta of 250,000."""
    return _write(
        folder, "phi-4", Tiny(**{"hidden": 128, "heads": 8, "kv_heads": 2, **changes}), {"rope_theta": 250000}
    )


def _write(folder: Path, model: str, tiny: Tiny, keys: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    ids, released = write_tokenizer(folder, model, ranks=RANKS), RELEASED[model]
    config = tiny.config() | {"vocab_size": RANKS + released.padding} | keys
    config |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), ids["<|endoftext|>"])
    write_json(folder / "config.json", config)
    stops = [ids[token] for token in released.stops]
    write_json(folder / "generation_config.json", {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": stops})
    write_weights(folder, random_weights(config, tiny.seed), dtype=tiny.dtype)
    return folder
