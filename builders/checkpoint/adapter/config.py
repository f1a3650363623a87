"""`adapter_config.json` of a LoRA: every key is used, harmless for a stated reason, or refused by name.

Keys and meanings are those of peft's `LoraConfig` (0.21.2). An unknown key is accepted where its value is null, false
or empty, which is how peft writes a feature that is not in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from builders.checkpoint.adapter.expressions import expression_problem
from builders.checkpoint.checkpoint import read_json
from builders.checkpoint.folder_check import ADAPTER_CONFIG
from targets.errors import CheckpointError, UnsupportedModelError

_MERGE_WITH_PEFT = "merge it with peft (model.merge_and_unload(), then save_pretrained) and build the merged checkpoint"

HARMLESS: Mapping[str, str] = {
    "auto_mapping": "chooses the base's class when peft loads it",
    "base_model_name_or_path": "a hint: names and shapes of the tensors decide",
    "corda_config": "how training started; `init_lora_weights` says whether it changed the base",
    "eva_config": "how training started; the ranks that it chose are in `rank_pattern`",
    "fan_in_fan_out": "for Conv1D; peft ignores it for the linear layers that these models have",
    "inference_mode": "whether the weights can be trained",
    "lora_dropout": "training only",
    "lora_ga_config": "how training started; `init_lora_weights` says whether it changed the base",
    "loftq_config": "how training started; `init_lora_weights` says whether it changed the base",
    "megatron_core": "the module that `megatron_config` needs",
    "peft_version": "who wrote the file",
    "qalora_group_size": "of `use_qalora`",
    "revision": "of `base_model_name_or_path`",
    "runtime_config": "peft itself ignores it in a file",
}
# Each must be off. The reason says what it would do to the weights or to the model.
UNSUPPORTED: Mapping[str, str] = {
    "alora_invocation_tokens": "an activated LoRA applies only after certain tokens: no merged model answers like it",
    "arrow_config": "it routes each token to another adapter: no merged model answers like it",
    "kasa_config": "KaSA changes the base's weights when it is loaded",
    "layer_replication": "it repeats layers of the base",
    "lora_bias": "it adds a bias that these models have no place for",
    "megatron_config": "its layers are Megatron's",
    "monteclora_config": "its weights are sampled",
    "target_parameters": "it adapts parameters of expert layers, which these models don't have",
    "use_bdlora": "its factors are stored as blocks",
    "use_qalora": "its input is pooled in groups",
    "velora_config": "it stores tensors of its own",
}
_INITIALIZED: Mapping[str, str] = {
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "corda": "CorDA",
    "lora_ga": "LoRA-GA",
    "loftq": "LoftQ",
}
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica")

Names = str | list[str]
_Factor = Annotated[float, Field(allow_inf_nan=False)]


class AdapterConfig(BaseModel):
    """The keys that are used, as peft spells them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"] | None = None
    r: Annotated[int, Field(ge=1)] = 8
    lora_alpha: _Factor = 8.0
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] | None = None
    alpha_pattern: dict[str, _Factor] | None = None
    target_modules: Names
    exclude_modules: Names | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: Names | None = None
    modules_to_save: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    bias: Literal["none", "all", "lora_only"] = "none"
    init_lora_weights: bool | str = True
    ensure_weight_tying: bool = False

    @property
    def rounds_delta(self) -> bool:
        """Whether peft rounds the product to the base's dtype before it adds it, as MiCA's merge does."""
        return self.init_lora_weights == "mica"


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and check the file.

    Raises:
        CheckpointError: it is missing or damaged, or a key has a value that peft would not accept.
        UnsupportedModelError: it asks for something that no merged checkpoint has, or that is not supported.
    """
    path = folder / ADAPTER_CONFIG
    content = read_json(path, required=True)
    _check_type(path, content)
    _check_features(path, content)
    used = {key: value for key, value in content.items() if key in AdapterConfig.model_fields}
    if used.get("target_modules") is None:
        raise CheckpointError(
            f"{path}: target_modules is null: the adapter's own list of modules is missing",
            fix="save the adapter again with peft's save_pretrained, which writes the list",
        )
    try:
        config = AdapterConfig.model_validate(used)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"{path}: {where}: {first['msg']}", fix="save the adapter again with peft's save_pretrained"
        ) from error
    _check_start(path, config.init_lora_weights)
    _check_patterns(path, config)
    return config


def _check_type(path: Path, content: Mapping[str, Any]) -> None:
    if content.get("peft_type") != "LORA":
        raise UnsupportedModelError(
            f"{path}: peft_type is {content.get('peft_type')!r}; only a LORA adapter can be merged while building",
            fix=_MERGE_WITH_PEFT,
        )
    if content.get("task_type") not in (None, "CAUSAL_LM"):
        raise UnsupportedModelError(
            f"{path}: task_type is {content['task_type']!r}: not an adapter of a language model (CAUSAL_LM)",
            fix="use an adapter that was trained for text generation",
        )


def _check_features(path: Path, content: Mapping[str, Any]) -> None:
    for key, value in content.items():
        if key in AdapterConfig.model_fields or key in HARMLESS or not value:
            continue
        reason = UNSUPPORTED.get(key)
        if reason is None:
            raise UnsupportedModelError(
                f"{path}: unknown key {key!r} with value {value!r} (written by peft {content.get('peft_version')})",
                fix=f"update phipack, or {_MERGE_WITH_PEFT}",
            )
        raise UnsupportedModelError(f"{path}: {key} is set: {reason}", fix=_MERGE_WITH_PEFT)


def _check_start(path: Path, start: bool | str) -> None:
    """Refuse the initializations that change the base's weights, unless their result was converted to a plain LoRA."""
    if isinstance(start, bool):
        return
    for prefix, name in _INITIALIZED.items():
        if start.lower().startswith(prefix):
            raise UnsupportedModelError(
                f"{path}: init_lora_weights is {start!r}: {name} changes the base's weights, so the adapter does not "
                "belong to the base as it was released",
                fix="convert it: save_pretrained(..., path_initial_model_for_weight_conversion=...) in peft; or "
                + _MERGE_WITH_PEFT,
            )
    if start not in _PLAIN_STARTS:
        raise UnsupportedModelError(
            f"{path}: init_lora_weights is {start!r}, which is not known", fix=f"update phipack, or {_MERGE_WITH_PEFT}"
        )


def _check_patterns(path: Path, config: AdapterConfig) -> None:
    """Check every regular expression, and refuse what peft refuses."""
    expressions: dict[str, list[str]] = {
        "rank_pattern": list(config.rank_pattern or ()),
        "alpha_pattern": list(config.alpha_pattern or ()),
        "layers_pattern": _listed(config.layers_pattern),
        "modules_to_save": config.modules_to_save or [],
    }
    for key in ("target_modules", "exclude_modules"):
        value = getattr(config, key)
        expressions[key] = [value] if isinstance(value, str) else []
    for key, texts in expressions.items():
        for text in texts:
            if (problem := expression_problem(text)) is not None:
                raise CheckpointError(
                    f"{path}: {key}: {text[:80]!r} {problem}",
                    fix="write a simpler expression, or the modules' names as a list",
                )
    if isinstance(config.target_modules, str) and config.layers_to_transform is not None:
        raise CheckpointError(
            f"{path}: layers_to_transform goes with a list of target_modules, not with the expression "
            f"{config.target_modules!r}",
            fix="save the adapter again with peft, which refuses this combination",
        )


def _listed(names: Names | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())
