"""An adapter merged by peft itself into what the truth has loaded: a model, or layers of a model without a class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builders.oracle.excerpt import belongs_to_first

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")


def changes_first(adapter: Path, layers: int) -> bool:
    """Return whether an adapter changes anything but later layers. Where it does not, peft raises an error."""
    return any(belongs_to_first(name, layers) for name in _shapes(adapter))


def resized_rows(adapter: Path) -> int | None:
    """Return the rows of an embedding that the adapter holds whole; None without one. It may have been resized."""
    return next((shape[0] for name, shape in _shapes(adapter).items() if name.endswith(_EMBEDDINGS)), None)


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the dtype that a checkpoint's weights are stored in; float32 where there are several."""
    import torch

    found = {
        entry["dtype"] for path in folder.glob("*.safetensors") for entry in _header(path).values() if "dtype" in entry
    }
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return kinds[found.pop()] if len(found) == 1 else torch.float32


def merged(model: Any, adapter: Path) -> Any:
    """Return the model with an adapter merged into it, in the dtype of the model, as peft rounds it.

    Products on layers that the model does not have are left out.
    """
    from peft import PeftConfig, PeftModel
    from peft.utils.constants import DUMMY_TARGET_MODULES
    from peft.utils.error import NoMatchingPeftModuleError

    config = PeftConfig.from_pretrained(str(adapter))
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter), config=config)
    except NoMatchingPeftModuleError:  # all products are on layers that were cut; the rest, such as a head, is merged
        config.target_modules = DUMMY_TARGET_MODULES
        adapted = PeftModel.from_pretrained(model, str(adapter), config=config)
    return adapted.merge_and_unload()


def merged_weights(weights: dict[str, Tensor], adapter: Path) -> dict[str, Tensor]:
    """Return the weights of a model that transformers has no class for, by the same names, with an adapter merged."""
    import torch

    rows, root = resized_rows(adapter), torch.nn.Module()
    root.prepare_inputs_for_generation = None  # peft asks a language model for it, and does not call it
    for name, values in weights.items():
        stem, _, kind = name.rpartition(".")
        if kind == "weight":
            added = rows - len(values) if rows is not None and name.endswith(_EMBEDDINGS) else 0
            whole = torch.cat([values, values.new_zeros(added, values.shape[1])]) if added > 0 else values
            _put(root, stem, _layer(stem, whole, weights.get(f"{stem}.bias")))
    return dict(merged(root, adapter).state_dict())


def _layer(stem: str, values: Tensor, bias: Tensor | None) -> Module:
    from torch import nn

    layer: Module
    if stem.endswith("embed_tokens"):
        layer = nn.Embedding(*values.shape, _weight=values)
    elif values.dim() == 1:
        layer = nn.LayerNorm(len(values), bias=bias is not None)
    else:
        layer = nn.Linear(values.shape[1], values.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(values, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def _put(root: Module, stem: str, layer: Module) -> None:
    from torch import nn

    *parents, last = stem.split(".")
    for parent in parents:
        if parent not in dict(root.named_children()):
            root.add_module(parent, nn.Module())
        root = getattr(root, parent)
    root.add_module(last, layer)


def _shapes(adapter: Path) -> dict[str, list[int]]:
    header = _header(adapter / "adapter_model.safetensors")
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header
