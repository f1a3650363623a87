"""Phi-3-small, computed from its formulas. Its model class is code in its repositories, which is never executed.

Written from the formulas alone, tensors under their stored names, one head at a time: norms are LayerNorm, all matrices
have a bias.

    embedded   = table[token] * mup_embedding_multiplier
    q, k, v    = query_key_value viewed as [key heads, queries of a key head + 2, head size]
    scores     = q · k * mup_attn_multiplier / head size          (without mup_use_scaling: / sqrt(head size))
    layer i    attends to all earlier tokens where (i + 1) % dense_attention_every_n_layers == 0, else to those of
               block k where q - k < blocksparse_num_local_blocks or (k + head + 1) % blocksparse_vert_stride == 0
    gegelu     g = x[0::2] at most the limit, l = x[1::2] within ± the limit: g * sigmoid(1.702 g) * (l + 1)
    logits     = head / mup_width_multiplier, and minus infinity for dummy_token_indices

Source: configuration_phi3_small.py and modeling_phi3_small.py of the released models; absent keys take the defaults of
that configuration class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from builders.oracle.excerpt import excerpt_of
from builders.oracle.library import transformers_reads
from builders.oracle.peft_merge import bare_layers, merged_by_peft
from builders.oracle.states import (
    ATTENTION_INPUT,
    ATTENTION_OUTPUT,
    EMBEDDING,
    HEAD_INPUT,
    MLP_INNER,
    MLP_INPUT,
    Observed,
    Rows,
    point,
)
from builders.oracle.truth import CUT_BLOCK_TOKENS, CUT_LOCAL_BLOCKS, Edge, Numbers, Probe
from targets.errors import MeasurementError
from targets.strict_json import parse_json

if TYPE_CHECKING:
    from torch import Tensor

ARCHITECTURE = "Phi3SmallForCausalLM"
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 100352,
    "max_position_embeddings": 8192,
    "rope_embedding_base": 1000000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "gegelu_limit": 20.0,
    "blocksparse_block_size": 64,
    "blocksparse_num_local_blocks": 16,
    "blocksparse_vert_stride": 8,
    "dense_attention_every_n_layers": 2,
    "layer_norm_epsilon": 1e-5,
    "mup_use_scaling": True,
    "mup_width_multiplier": 8.0,
    "mup_embedding_multiplier": 10.0,
    "mup_attn_multiplier": 1.0,
    "tie_word_embeddings": True,
}
_DUMMY_IDS = [100256, 100258, 100259, 100260, 100264, 100265, *range(100267, 100352)]
_QUICK_GELU = 1.702


@dataclass(frozen=True)
class Phi3SmallFormulas:
    """Implements `Truth`. `scratch`: where the excerpt of the checkpoint is made. `adapter`: merged into it by peft."""

    folder: Path
    scratch: Path | None = None
    adapter: Path | None = None

    @property
    def name(self) -> str:
        """What the formulas are those of; with an adapter, what merged it."""
        own = "the formulas of Phi-3-small"
        return own if self.adapter is None else f"{own} and peft {version('peft')}"

    def numbers(self) -> Numbers:
        """Return what the configuration class of the released models reads."""
        config = self._config()
        edges: dict[Edge, int] = {}
        if config["dense_attention_every_n_layers"] != 1:
            dense_up_to = config["blocksparse_block_size"] * config["blocksparse_num_local_blocks"]
            edges["blocksparse_num_local_blocks"] = dense_up_to
        if scaling := _scaling(config):
            edges["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
        return Numbers(config["num_hidden_layers"], config["vocab_size"], config["max_position_embeddings"], edges)

    def observe(self, probes: Sequence[Probe], layers: int) -> list[Observed]:
        """Compute sequences with the first layers, as `Truth` says.

        Memory, float32: the weights of these layers, of the embedding and of the head; what one layer makes of one
        sequence; the scores of one head.
        """
        import torch

        with (
            excerpt_of(self.folder, layers, self.scratch) as excerpt,
            transformers_reads(self.folder, "weights"),
            torch.inference_mode(),
        ):
            weights = _weights(excerpt, self.adapter)
            config = self._config()
            try:
                return [_Forward(_with_edge(config, one), weights, layers).observe(one.tokens) for one in probes]
            except KeyError as error:
                raise MeasurementError(
                    f"{self.folder}: Phi-3-small needs {error.args[0]!r}; config.json and the weights don't have it",
                    fix="compare config.json with the weights: they may belong to different models",
                ) from error

    def _config(self) -> dict[str, Any]:
        config = _DEFAULTS | parse_json((self.folder / "config.json").read_bytes(), ours=False)
        if config.get("dummy_token_indices") is None:
            config["dummy_token_indices"] = [token for token in _DUMMY_IDS if token < config["vocab_size"]]
        return config


def _with_edge(config: dict[str, Any], probe: Probe) -> dict[str, Any]:
    """Return the config with a smaller number where the probe has one."""
    if not probe.is_cut:
        return config
    if probe.edge == "blocksparse_num_local_blocks":
        return config | {"blocksparse_block_size": CUT_BLOCK_TOKENS, "blocksparse_num_local_blocks": CUT_LOCAL_BLOCKS}
    return config | {"longrope_begins_after": probe.past}  # its ratio to the context stays that of the config


def _weights(folder: Path, adapter: Path | None) -> dict[str, Tensor]:
    """Read all tensors of a folder, of `model.safetensors` or else of the index's files, and merge an adapter."""
    from safetensors.torch import load_file

    names = ["model.safetensors"]
    if not (folder / names[0]).is_file():
        index = parse_json((folder / "model.safetensors.index.json").read_bytes(), ours=False)
        names = sorted(set(index["weight_map"].values()))
    weights = {key: value for name in names for key, value in load_file(folder / name).items()}
    if adapter is not None:  # in the dtype that the weights have: peft rounds to it
        weights = merged_by_peft(bare_layers(weights), adapter).state_dict()
    return {name: values.float() for name, values in weights.items()}


def _scaling(config: dict[str, Any]) -> dict[str, Any] | None:
    """Return the longrope of the config, as transformers 4 or 5 writes it; None without one."""
    scaling: dict[str, Any] = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return scaling if kind in ("su", "longrope") else None


@dataclass(frozen=True)
class _Forward:
    """One pass over the first layers."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    layers: int

    def observe(self, tokens: NDArray[np.int64]) -> Observed:
        """Compute one sequence."""
        import torch

        config = self.config
        states: dict[str, Rows] = {}
        table = self.weights["model.embed_tokens.weight"]
        stream = table[torch.from_numpy(tokens)] * config["mup_embedding_multiplier"]
        states[EMBEDDING] = stream.numpy()
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            normed = self._norm(stream, prefix + "input_layernorm")
            attended = self._attention(normed, prefix, layer)
            stream = stream + self._linear(attended, prefix + "self_attn.dense")
            second = self._norm(stream, prefix + "post_attention_layernorm")
            inner = self._gegelu(self._linear(second, prefix + "mlp.up_proj"))
            stream = stream + self._linear(inner, prefix + "mlp.down_proj")
            seen = {ATTENTION_INPUT: normed, ATTENTION_OUTPUT: attended, MLP_INPUT: second, MLP_INNER: inner}
            states |= {point(layer, kind): rows.numpy() for kind, rows in seen.items()}
        last = self._norm(stream, "model.final_layernorm")
        head = table if config["tie_word_embeddings"] else self.weights["lm_head.weight"]
        logits = last @ head.T / config["mup_width_multiplier"]
        logits[:, config["dummy_token_indices"]] = -math.inf
        return Observed(states | {HEAD_INPUT: last.numpy()}, logits.numpy())

    def _attention(self, rows: Tensor, prefix: str, layer: int) -> Tensor:
        import torch

        config, length = self.config, len(rows)
        heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
        size, queries = config["hidden_size"] // heads, heads // key_heads
        fused = self._linear(rows, prefix + "self_attn.query_key_value").view(length, key_heads, queries + 2, size)
        scale = config["mup_attn_multiplier"] / size if config["mup_use_scaling"] else size**-0.5
        turn = self._rotation(length, size)
        outputs = []
        for head in range(heads):
            group, place = divmod(head, queries)
            query, key = turn(fused[:, group, place]), turn(fused[:, group, queries])
            scores = (query @ key.T * scale).masked_fill(~self._seen(length, layer, head), -math.inf)
            outputs.append(scores.softmax(-1) @ fused[:, group, queries + 1])
        return torch.cat(outputs, dim=-1)

    def _seen(self, length: int, layer: int, head: int) -> Tensor:
        """Return which key each query sees: [queries, keys]."""
        import torch

        config, places = self.config, torch.arange(length)
        causal = places[None, :] <= places[:, None]
        every = config["dense_attention_every_n_layers"]
        if every and (layer + 1) % every == 0:
            return causal
        blocks = places // config["blocksparse_block_size"]
        near = blocks[:, None] - blocks[None, :] < config["blocksparse_num_local_blocks"]
        striped = (blocks + head + 1) % config["blocksparse_vert_stride"] == 0
        return causal & (near | striped[None, :])

    def _rotation(self, length: int, size: int) -> Any:
        """Return the function that rotates [length, size] by position: the pairs (i, i + size / 2)."""
        import torch

        half, factor = size // 2, 1.0
        frequencies = 1.0 / self.config["rope_embedding_base"] ** (torch.arange(half, dtype=torch.float64) / half)
        if scaling := _scaling(self.config):
            original = scaling["original_max_position_embeddings"]
            kind = "long" if length > self.config.get("longrope_begins_after", original) else "short"
            frequencies /= torch.tensor(scaling[f"{kind}_factor"], dtype=torch.float64)
            stretch = self.config["max_position_embeddings"] / original
            default = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
            factor = scaling.get(f"{kind}_mscale", default)
        angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies[None, :]
        cosine, sine = (angles.cos() * factor).float(), (angles.sin() * factor).float()

        def turn(rows: Tensor) -> Tensor:
            first, second = rows[:, :half], rows[:, half:]
            return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)

        return turn

    def _gegelu(self, mixed: Tensor) -> Tensor:
        import torch

        limit = self.config["gegelu_limit"]
        gate, linear = mixed[:, 0::2], mixed[:, 1::2]
        gate = torch.where(gate.isinf(), gate, gate.clamp(max=limit))
        linear = torch.where(linear.isinf(), linear, linear.clamp(-limit, limit))
        return gate * torch.sigmoid(_QUICK_GELU * gate) * (linear + 1)

    def _linear(self, rows: Tensor, name: str) -> Tensor:
        return rows @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def _norm(self, rows: Tensor, name: str) -> Tensor:
        centred = rows - rows.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + self.config["layer_norm_epsilon"]).sqrt()
        return centred / spread * self.weights[name + ".weight"] + self.weights[name + ".bias"]
