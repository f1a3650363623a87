"""The first layers of a checkpoint in transformers' own model class, loaded by transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders.oracle.excerpt import excerpt_of
from builders.oracle.library import installed_version, transformers_reads
from builders.oracle.peft_merge import merged_by_peft, stored_dtype
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
    import torch
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
    """Implements `Truth`. `scratch`: where the excerpt of the checkpoint is made.

    `adapter`: the folder of a LoRA, which peft merges into the model. `vocabulary`: the number of tokens with which the
    adapter was trained, where that is not the base's.
    """

    folder: Path
    scratch: Path | None = None
    adapter: Path | None = None
    vocabulary: int | None = None

    @property
    def name(self) -> str:
        """The library and its version."""
        own = f"transformers {installed_version()}"
        return own if self.adapter is None else f"{own} and peft {version('peft')}"

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
            vocabulary = self.vocabulary or config.vocab_size
            return Numbers(config.num_hidden_layers, vocabulary, config.max_position_embeddings, edges)

    def observe(self, probes: Sequence[Probe], layers: int) -> list[Observed]:
        """Compute sequences with the first layers, as `Truth` says.

        Memory: the weights of these layers, of the embedding and of the head, in float32 and, while they are loaded, as
        they are stored; and one sequence's states.
        """
        import torch

        with (
            excerpt_of(self.folder, layers, self.scratch) as excerpt,
            transformers_reads(self.folder, "weights"),
            torch.inference_mode(),
        ):
            if self.adapter is None:
                model = _loaded(excerpt, self.folder, torch.float32)
            else:  # peft rounds to the dtype that the weights have
                model = _loaded(excerpt, self.folder, stored_dtype(excerpt))
                if self.vocabulary is not None:
                    model.resize_token_embeddings(self.vocabulary, mean_resizing=False)
                model = merged_by_peft(model, self.adapter).float().eval()
            return [_observed(model, probe) for probe in probes]


def _loaded(excerpt: Path, folder: Path, dtype: torch.dtype) -> Any:
    import transformers

    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        excerpt, dtype=dtype, trust_remote_code=False, local_files_only=True, output_loading_info=True
    )
    # transformers fills in random numbers for these, and only warns.
    if missing := sorted(report["missing_keys"]):
        raise MeasurementError(
            f"{folder}: transformers {installed_version()} finds no tensor for {missing[0]!r} ({len(missing)} in all)",
            fix="compare config.json with the weights: they may belong to different models",
        )
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
    return Observed(states, logits.numpy())


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
