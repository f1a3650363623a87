"""A zoo of tiny checkpoints: the forms in which people's folders come, in combinations that cover every pair of levels.

All combinations of the axes would be some thousands. Faults that were found came from one form, or from two that meet
(a rope form and a writer, a tokenizer's files and a template), so `specimens` covers every two levels of different axes
at least once, which takes no more folders than the two longest axes' product.
"""

from __future__ import annotations

import itertools
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.checkpoints import CHAT_TEMPLATE, Tiny, random_weights, write_json, write_tokenizer, write_weights
from tests.support.sentencepiece_folder import write_sentencepiece

EDGE, WINDOW = 48, 40
BOS_TEMPLATE = "{{ bos_token }}" + CHAT_TEMPLATE
MARKED_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|assistant|>\n"
    "{% generation %}{{ message['content'] }}<|end|>\n{% endgeneration %}{% else %}<|{{ message['role'] }}|>\n"
    "{% if tools is not none %}{{ tools | tojson }}{% endif %}{{ message['content'] }}<|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
AXES: Mapping[str, tuple[str, ...]] = {
    "tokenizer": ("bytes", "pieces", "pieces, added_tokens.json", "pieces as tokenizer.json"),
    "rope": ("default", "longrope", "su", "llama"),
    "template": ("in the config", "file", "named", "marked"),
    "weights": ("one file", "shards", "inverse frequencies"),
    "head": ("own", "tied", "tied and repeated"),
    "writer": ("4.57", "5"),
    "window": ("none", "within"),
    "dtype": ("BF16", "F32"),
    "recipe": ("gguf-f16", "onnx-fp16", "coreml-fp16"),
}
_IMPOSSIBLE = {("rope", "su"), ("writer", "5")}  # transformers 5.24 can't open a config that says "su"


@dataclass(frozen=True)
class Specimen:
    """One folder: a level of each axis."""

    tokenizer: str
    rope: str
    template: str
    weights: str
    head: str
    writer: str
    window: str
    dtype: str
    recipe: str  # how it is built

    @property
    def name(self) -> str:
        return "-".join(level.replace(" ", "_") for level in asdict(self).values())


def specimens() -> list[Specimen]:
    """Combinations that cover every pair of levels: each covers as many pairs as it can that are still open."""
    every = [dict(zip(AXES, levels, strict=True)) for levels in itertools.product(*AXES.values())]
    every = [levels for levels in every if not levels.items() >= _IMPOSSIBLE]
    bits: dict[tuple[tuple[str, str], ...], int] = {}  # of each pair, by its levels
    covered = [sum(bits.setdefault(pair, 1 << len(bits)) for pair in _pairs(levels)) for levels in every]
    open_pairs = (1 << len(bits)) - 1
    chosen: list[Specimen] = []
    while open_pairs:
        best = max(range(len(every)), key=lambda one: (open_pairs & covered[one]).bit_count())
        open_pairs &= ~covered[best]
        chosen.append(Specimen(**every[best]))
    return chosen


def _pairs(levels: dict[str, str]) -> Iterator[tuple[tuple[str, str], ...]]:
    return itertools.combinations(levels.items(), 2)


def write_specimen(folder: Path, specimen: Specimen) -> Path:
    """Write the folder of a specimen."""
    config = _config(specimen)
    if specimen.tokenizer == "bytes":
        folder.mkdir(parents=True)
        write_tokenizer(folder)
    else:
        write_sentencepiece(folder)
        (folder / "model.safetensors").unlink()
    write_json(folder / "config.json", config)
    _write_template(folder, specimen)
    if specimen.tokenizer == "pieces, added_tokens.json":
        _move_added_tokens(folder)
    _write_weights(folder, config, specimen)
    eos = [310, 311, 312]
    write_json(folder / "generation_config.json", {"bos_token_id": config["bos_token_id"], "eos_token_id": eos})
    if specimen.tokenizer == "pieces as tokenizer.json":
        _save_tokenizer(folder)
    if specimen.writer == "5":
        _save_config(folder)
        if specimen.tokenizer == "bytes":
            _save_tokenizer(folder)
    if specimen.rope == "su":  # last: transformers 5.24, which saves some of the files, can't open it
        config["rope_scaling"]["type"] = "su"
        write_json(folder / "config.json", config)
    return folder


def _config(specimen: Specimen) -> dict[str, Any]:
    tiny = Tiny(
        family="llama" if specimen.rope == "llama" else "phi3",
        original_context=EDGE if specimen.rope in ("longrope", "su") else None,
        window=WINDOW if specimen.window == "within" else None,
        tied=specimen.head != "own",
    )
    config = tiny.config() | {"rope_theta": 25000.0, "transformers_version": "4.57.6"}
    if specimen.tokenizer != "bytes":
        config["bos_token_id"] = 1
    return config


def _write_weights(folder: Path, config: dict[str, Any], specimen: Specimen) -> None:
    weights = random_weights(config)
    if specimen.head == "tied and repeated":
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    if specimen.weights == "inverse frequencies":  # as Meta's conversions have them
        half = config["hidden_size"] // config["num_attention_heads"] // 2
        for layer in range(config["num_hidden_layers"]):
            name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
            weights[name] = (10000.0 ** -(np.arange(half) / half)).astype(np.float32)
    write_weights(folder, weights, dtype=specimen.dtype, shards=3 if specimen.weights == "shards" else 1)


def _write_template(folder: Path, specimen: Specimen) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_bytes())
    config.pop("chat_template", None)
    match specimen.template:
        case "file":
            (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")
        case "named":
            named = {"default": BOS_TEMPLATE, "tool_use": "{{ tools | tojson }}"}
            config["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
        case "marked":
            config["chat_template"] = MARKED_TEMPLATE
        case _:
            config["chat_template"] = BOS_TEMPLATE
    write_json(path, config)


def _move_added_tokens(folder: Path) -> None:
    """Move the added tokens from the config to a file of their own, as older folders of SentencePiece have them."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_bytes())
    listed = config.pop("added_tokens_decoder")
    write_json(path, config)
    named = {entry["content"]: int(number) for number, entry in listed.items() if int(number) > 2}
    write_json(folder / "added_tokens.json", named)


def _save_tokenizer(folder: Path) -> None:
    """Save the tokenizer as the installed transformers does."""
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder / "saved")
    (folder / "tokenizer.model").unlink(missing_ok=True)
    for path in (folder / "saved").iterdir():
        path.replace(folder / path.name)
    if (folder / "chat_template.jinja").is_file():
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
        write_json(folder / "tokenizer_config.json", {k: v for k, v in config.items() if k != "chat_template"})
    shutil.rmtree(folder / "saved")


def _save_config(folder: Path) -> None:
    """Save the config as the installed transformers does: rope_parameters, dtype."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    config.save_pretrained(folder)
