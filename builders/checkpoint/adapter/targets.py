"""Which modules of the base an adapter changes, and with which rank and scaling: peft's own rules on names.

Source: `check_target_module_exists`, `_maybe_include_all_linear_layers`, `_set_trainable` (tuners/tuners_utils.py and
utils/other.py) and `LoraModel._create_and_replace` of peft 0.21.2. Pure: names in, names out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from builders.checkpoint.adapter.config import AdapterConfig
from builders.checkpoint.adapter.expressions import LAYER_GROUP

HEAD, EMBEDDING = "lm_head", "model.embed_tokens"
Number = TypeVar("Number", int, float)
_ALL_LINEAR = "all-linear"
_FIRST_NUMBER = rf".*?\.[^.]*\.(?P<{LAYER_GROUP}>\d+)\."


def is_targeted(config: AdapterConfig, module: str, *, is_matrix: bool) -> bool:
    """Return whether a module, by its full name such as `model.layers.0.mlp.down_proj`, has a low-rank product.

    `is_matrix`: False for a norm, which `all-linear` leaves out, as it does head and embedding.
    """
    if _is_named(config.exclude_modules, module) or _is_in_saved(config, module):
        return False
    targets = config.target_modules
    if isinstance(targets, str):
        if targets.lower() == _ALL_LINEAR:
            return is_matrix and module not in (HEAD, EMBEDDING)
        return re.fullmatch(targets, module) is not None
    if module in targets:
        return True
    return any(module.endswith(f".{name}") for name in targets) and _is_in_layers(config, module)


def saved_modules(config: AdapterConfig, modules: Iterable[str]) -> dict[str, list[str]]:
    """Return, for each entry of `modules_to_save`, the modules that it selects: those whose name ends with it."""
    names = list(modules)
    return {entry: [name for name in names if name.endswith(entry)] for entry in config.modules_to_save or ()}


def token_layers(config: AdapterConfig) -> dict[str, list[int]]:
    """Return the layers with single trained tokens, as they are called in the config, and the ids."""
    indices = config.trainable_token_indices
    if indices is None:
        return {}
    return {"embed_tokens": indices} if isinstance(indices, list) else dict(indices)


def rank_of(config: AdapterConfig, module: str) -> int:
    """Return the rank of a module's product."""
    return _patterned(config.rank_pattern, module, config.r)


def scaling_of(config: AdapterConfig, module: str) -> float:
    """Return the factor of a module's product: alpha / rank, or alpha / sqrt(rank) with rslora."""
    rank, alpha = rank_of(config, module), _patterned(config.alpha_pattern, module, config.lora_alpha)
    return alpha / math.sqrt(rank) if config.use_rslora else alpha / rank


def _patterned(patterns: Mapping[str, Number] | None, module: str, default: Number) -> Number:
    """Return the value of the first pattern that matches the end of a name, else the default."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _is_named(names: str | list[str] | None, module: str) -> bool:
    if isinstance(names, str):
        return bool(names) and re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names or ())


def _is_in_saved(config: AdapterConfig, module: str) -> bool:
    return any(re.match(rf"(^|.*\.){entry}($|\..*)", module) for entry in config.modules_to_save or ())


def _is_in_layers(config: AdapterConfig, module: str) -> bool:
    """Return whether a module lies in one of `layers_to_transform`, if there are any."""
    layers = config.layers_to_transform
    if layers is None or layers == []:
        return True
    patterns = [config.layers_pattern] if isinstance(config.layers_pattern, str) else config.layers_pattern or []
    number = rf"(?P<{LAYER_GROUP}>\d+)"
    expressions = [rf"(?:^|.*?\.){pattern}\.{number}\." for pattern in patterns if pattern] or [_FIRST_NUMBER]
    found = next((match for text in expressions if (match := re.match(text, module))), None)
    if found is None:
        return False
    layer = int(found[LAYER_GROUP])
    return layer == layers if isinstance(layers, int) else layer in layers
