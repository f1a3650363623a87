"""transformers' models with the products of bfloat16 numbers and sums in float32, as statistics are measured."""

from __future__ import annotations

from typing import Any

import torch


def with_bfloat16_products(model: Any) -> None:
    """Have all matrices of a model's layers multiply numbers that were rounded to bfloat16, in place.

    Hooks that are registered afterwards see what is multiplied; those before, what was not rounded yet.
    """
    for module in model.model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = module.weight.data.bfloat16().float()
            module.register_forward_pre_hook(lambda _module, inputs: (inputs[0].bfloat16().float(),))
