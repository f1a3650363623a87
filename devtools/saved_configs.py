"""`config.json` as the installed transformers saves it: what tests/support/transformers_4 and transformers_5 hold.

    python -m devtools.saved_configs FROM TO

reads every NAME.json of the folder FROM and writes the same model's config to TO/NAME.json. It runs in phipack's own
environment (transformers 5) and in that of `phipack export` (transformers 4), and imports nothing but transformers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# Phi-3-small's configuration class is in its repository, not in transformers: what its __init__ assigns.
_SMALL_DEFAULTS: dict[str, Any] = {
    "dense_attention_every_n_layers": 2,
    "ff_dim_multiplier": None,
    "hidden_act": "gegelu",
    "ffn_dropout_prob": 0.1,
    "gegelu_limit": 20.0,
    "gegelu_pad_to_256": True,
    "blocksparse_homo_head_pattern": False,
    "blocksparse_block_size": 64,
    "blocksparse_num_local_blocks": 16,
    "blocksparse_vert_stride": 8,
    "blocksparse_triton_kernel_block_size": 64,
    "embedding_dropout_prob": 0.1,
    "attention_dropout_prob": 0.0,
    "rope_embedding_base": 1e6,
    "rope_position_scale": 1.0,
    "mup_use_scaling": True,
    "mup_width_multiplier": 8.0,
    "mup_embedding_multiplier": 10.0,
    "mup_attn_multiplier": 1.0,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-5,
    "use_cache": True,
    "rope_scaling": None,
    "reorder_and_upcast_attn": False,
    "pad_sequence_to_multiple_of_64": True,
}


def saved(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config as the installed transformers writes it after it has read it."""
    import transformers

    if config["model_type"] == "phi3small":

        class Phi3SmallConfig(transformers.PretrainedConfig):  # type: ignore[misc, name-defined]
            model_type = "phi3small"

            def __init__(self, **keys: Any) -> None:
                for key, default in _SMALL_DEFAULTS.items():
                    setattr(self, key, keys.pop(key, default))
                super().__init__(**keys)

        read = Phi3SmallConfig.from_dict(config)
    else:
        kind = {"phi3": transformers.Phi3Config, "llama": transformers.LlamaConfig}[config["model_type"]]
        read = kind.from_dict(config)
    content: dict[str, Any] = json.loads(read.to_json_string(use_diff=True))
    return content


def main() -> None:
    """Save every config of a folder."""
    source, target = (Path(argument) for argument in sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.json")):
        content = json.dumps(saved(json.loads(path.read_bytes())), indent=2, sort_keys=True)
        (target / path.name).write_text(content + "\n", "utf-8")


if __name__ == "__main__":
    main()
