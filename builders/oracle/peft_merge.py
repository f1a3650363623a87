"""An adapter merged by peft itself: into transformers' model, or into bare layers where transformers has no class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module


def merged_by_peft(model: Module, adapter: Path) -> Any:
    """Merge an adapter into a model in place. Its products on layers that the model does not have are left out."""
    import peft
    from peft.utils.constants import DUMMY_TARGET_MODULES
    from peft.utils.error import NoMatchingPeftModuleError

    config = peft.PeftConfig.from_pretrained(str(adapter))
    config.task_type = None  # of the methods around the model: bare layers have none of them
    try:
        adapted = peft.PeftModel.from_pretrained(model, str(adapter), config=config)
    except NoMatchingPeftModuleError:
        config.target_modules = DUMMY_TARGET_MODULES  # its products are on layers that were cut; all else is merged
        adapted = peft.PeftModel.from_pretrained(model, str(adapter), config=config)
    return adapted.merge_and_unload()


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the dtype that a checkpoint's weights are stored in; float32 where there are several."""
    import torch
    from safetensors import safe_open

    found = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no mapping
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return kinds[found.pop()] if len(found) == 1 else torch.float32


def bare_layers(weights: Mapping[str, Tensor]) -> Module:
    """Return modules of these names and values, which peft can merge into; nothing runs them."""
    import torch

    root = torch.nn.Module()
    for name, values in weights.items():
        stem, _, kind = name.rpartition(".")
        if kind == "weight":
            *parents, last = stem.split(".")
            place = root
            for parent in parents:
                if parent not in dict(place.named_children()):
                    place.add_module(parent, torch.nn.Module())
                place = place.get_submodule(parent)
            place.add_module(last, _layer(last, values, weights.get(f"{stem}.bias")))
    return root


def _layer(name: str, values: Tensor, bias: Tensor | None) -> Module:
    import torch

    layer: Module
    if name == "embed_tokens":
        layer = torch.nn.Embedding(*values.shape)
    elif values.dim() == 1:
        layer = torch.nn.LayerNorm(values.shape[0], bias=bias is not None)
    else:
        layer = torch.nn.Linear(values.shape[1], values.shape[0], bias=bias is not None)
    layer.weight = torch.nn.Parameter(values, requires_grad=False)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    return layer
