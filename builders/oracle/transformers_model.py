"""The first layers of a checkpoint in transformers' own model class, loaded by transformers; an adapter by peft."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builders.oracle.excerpt import excerpt_of
from builders.oracle.library import installed_version, transformers_reads
from builders.oracle.peft_merge import changes_first, merged, resized_rows, stored_dtype
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
from builders.oracle.truth import Edge, Numbers, Probe
from targets.errors import MeasurementError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

# The matrices whose inputs are the points: the first that a layer has, fused as in Phi-3 or split as in Llama.
_MATRICES = {
    ATTENTION_INPUT: ("self_attn.qkv_proj", "self_attn.q_proj"),
    ATTENTION_OUTPUT: ("self_attn.o_proj",),
    MLP_INPUT: ("mlp.gate_up_proj", "mlp.gate_proj"),
    MLP_INNER: ("mlp.down_proj",),
}


@dataclass(frozen=True)
class TransformersModel:
    """Implements `Truth`. `scratch`: where the excerpt of the checkpoint is made. `adapter`: merged into it by peft."""

    folder: Path
    scratch: Path | None = None
    adapter: Path | None = None

    @property
    def name(self) -> str:
        """The library and its version."""
        return f"transformers {installed_version()}" + ("" if self.adapter is None else f" and peft {version('peft')}")

    def numbers(self) -> Numbers:
        """Return what transformers reads in the config. Raises `MeasurementError` where it can't."""
        with excerpt_of(self.folder, scratch=self.scratch) as excerpt, transformers_reads(self.folder, "config"):
            import transformers

            config = transformers.AutoConfig.from_pretrained(excerpt, trust_remote_code=False, local_files_only=True)
            edges: dict[Edge, int] = {}
            # Only of a class that has one: Llama keeps the key as it keeps every key that it does not know.
            if hasattr(type(config), "sliding_window") and config.sliding_window is not None:
                edges["sliding_window"] = config.sliding_window
            rope = config.rope_parameters
            if rope["rope_type"] == "longrope":
                edges["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
            vocabulary = config.vocab_size if self.adapter is None else resized_rows(self.adapter) or config.vocab_size
            return Numbers(config.num_hidden_layers, vocabulary, config.max_position_embeddings, edges)

    def observe(self, probes: Sequence[Probe], layers: int) -> list[Observed]:
        """Compute sequences with the first layers, as `Truth` says.

        Memory, float32: the weights of these layers, of the embedding and of the head; what one layer makes of one
        sequence; one sequence's states. With an adapter also its own, and the weights once more as they are stored.
        """
        import torch

        with (
            excerpt_of(self.folder, layers, self.scratch) as excerpt,
            transformers_reads(self.folder, "weights"),
            torch.inference_mode(),
        ):
            model = self._loaded(excerpt, layers)
            return [_observed(model, probe) for probe in probes]

    def _loaded(self, excerpt: Path, layers: int) -> Any:
        import torch
        import transformers

        merges = self.adapter is not None and changes_first(self.adapter, layers)
        # peft merges in the dtype of the base, and rounds to it: that of the weights, whatever config.json says.
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            excerpt,
            dtype=stored_dtype(excerpt) if merges else torch.float32,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        # transformers fills in random numbers for these, and only warns.
        if missing := sorted(report["missing_keys"]):
            raise MeasurementError(
                f"{self.folder}: transformers {installed_version()} finds no tensor for {missing[0]!r} "
                f"({len(missing)} in all)",
                fix="compare config.json with the weights: they may belong to different models",
            )
        if self.adapter is not None and merges:
            if rows := resized_rows(self.adapter):
                model.resize_token_embeddings(rows, mean_resizing=False)
            model = merged(model, self.adapter).float()
        return model.eval()


def _observed(model: Any, probe: Probe) -> Observed:
    import torch

    states: dict[str, Rows] = {}
    length = len(probe.tokens)
    ids, positions = torch.from_numpy(probe.tokens)[None], torch.arange(length)[None]
    if probe.edge == "original_max_position_embeddings" and probe.is_cut:
        # The largest position decides between the short and the long factors. One more token has it: no other sees it.
        far = model.config.rope_parameters["original_max_position_embeddings"]
        ids, positions = torch.cat([ids, ids[:, :1]], 1), torch.cat([positions, torch.tensor([[far]])], 1)

    def keep(name: str, rows: Tensor) -> None:
        states[name] = rows[0, :length].numpy().copy()

    watched: list[tuple[str, Module]] = [(HEAD_INPUT, model.get_output_embeddings())]
    for number, layer in enumerate(model.base_model.layers):
        for kind, names in _MATRICES.items():
            watched.append((point(number, kind), _first_of(layer, names)))
    hooks = [module.register_forward_pre_hook(_of_input(keep, name)) for name, module in watched]
    hooks.append(
        model.get_input_embeddings().register_forward_hook(lambda _module, _inputs, output: keep(EMBEDDING, output))
    )
    try:
        with _window(model.config, probe):
            logits = model(ids, position_ids=positions, use_cache=False).logits[0, :length]
    finally:
        for hook in hooks:
            hook.remove()
    return Observed(states, logits.numpy().astype(np.float32))


@contextmanager
def _window(config: Any, probe: Probe) -> Iterator[None]:
    """Let a model have the probe's window: it makes its mask from the config each time."""
    if probe.edge != "sliding_window" or not probe.is_cut:
        yield
        return
    own, config.sliding_window = config.sliding_window, probe.past
    try:
        yield
    finally:
        config.sliding_window = own


def _of_input(keep: Callable[[str, Tensor], None], name: str) -> Callable[[Module, tuple[Tensor, ...]], None]:
    return lambda _module, inputs: keep(name, inputs[0])


def _first_of(layer: Module, names: tuple[str, ...]) -> Module:
    modules = dict(layer.named_modules())
    return next(modules[name] for name in names if name in modules)
