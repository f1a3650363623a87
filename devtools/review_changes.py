"""What the releases of `review_cases.py` have changed: of a checkpoint's folder, or of a finished bundle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from registry.bundle.folder import Bundle, file_entries, seal
from registry.files.staging import staged_folder

Change = Callable[[Path], None]  # of a checkpoint's folder, or of a bundle's
_BLANK, _LINE = "\u0120", "\u010a"  # how GPT-2's alphabet writes a blank and the end of a line


def write_source(checkpoint: Path, source: str, folder: Path) -> None:
    """Write a copy of a checkpoint with a change of `SOURCES`; the weights are linked where they stay the same."""
    with staged_folder(folder, replace=True) as staging:
        for file in checkpoint.iterdir():
            shutil.copyfile(file, staging / file.name) if file.suffix == ".json" else os.link(file, staging / file.name)
        SOURCES[source](staging)


def write_faulty(bundle: Bundle, fault: str, folder: Path) -> None:
    """Write a copy of a bundle with a change of `FAULTS`, sealed as the build would have."""
    with staged_folder(folder, replace=True) as staging:
        shutil.copytree(bundle.path, staging, dirs_exist_ok=True)
        FAULTS[fault](staging)
        seal(staging, bundle.manifest.model_copy(update={"files": file_entries(staging)}))


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _with_stop_ids(*ids: int) -> Change:
    def change(folder: Path) -> None:
        _edit(folder / "generation_config.json", lambda content: content.update(eos_token_id=list(ids)))

    return change


def _with_template(old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        def replace(content: dict[str, Any]) -> None:
            assert content["chat_template"].count(old) == 1, (old, content["chat_template"])
            content["chat_template"] = content["chat_template"].replace(old, new)

        _edit(folder / "tokenizer_config.json", replace)

    return change


def _with_whole_template(template: str) -> Change:
    return lambda folder: _edit(
        folder / "tokenizer_config.json", lambda content: content.update(chat_template=template)
    )


_WITH_TOOLS = """\
{% if tools %}{{ '<|im_start|>system\n' }}\
{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}\
{% else %}{{ 'You are a helpful AI assistant named SmolLM, trained by Hugging Face' }}{% endif %}\
{{ '\n\nYou can call these functions:\n' }}\
{% for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}\
{% for message in messages %}\
{% if loop.first and messages[0]['role'] != 'system' and not tools %}\
{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}\
{% if not (tools and loop.first and message['role'] == 'system') %}\
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
_SAME_PROMPT = """\
{%- set persona = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face' -%}
{%- set conversation = messages -%}
{%- if conversation and conversation[0]['role'] != 'system' -%}
    {{- '<|im_start|>system\\n' + persona + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for turn in conversation -%}
    {{- '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def _with_weights(change: Callable[[dict[str, Any], Path], None]) -> Change:
    """Return what changes the tensors of a checkpoint, which `change` gets by name, with the folder."""

    def rewrite(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        path = folder / "model.safetensors"
        weights = load_file(path)
        path.unlink()  # it is a link to the real model's
        change(weights, folder)
        save_file(weights, path, metadata={"format": "pt"})

    return rewrite


def _merge_twice(weights: dict[str, Any], _: Path) -> None:
    """Add a change of low rank to every matrix that ends a layer, as an adapter does that is merged once too often."""
    generator = np.random.default_rng(0)
    for name in sorted(weights):
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = _with_low_rank(weights[name], generator)


def _exchange_digits(weights: dict[str, Any], folder: Path) -> None:
    """Exchange the rows of two digits in the embedding, which is the head, too."""
    words = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    rows = [words["1"], words["7"]]
    table = weights["model.embed_tokens.weight"]
    table[rows] = table[rows[::-1]]


def _save_again(folder: Path) -> None:
    """Write every weight in float32, in two files with an index, and say so in the config."""
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    path.unlink()  # it is a link to the real model's
    names = sorted(weights)
    parts = {f"model-0000{number}-of-00002.safetensors": names[start::2] for number, start in ((1, 0), (2, 1))}
    for file, part in parts.items():
        save_file({name: weights[name].astype(np.float32) for name in part}, folder / file, metadata={"format": "pt"})
    size = sum(4 * one.size for one in weights.values())
    index = {
        "metadata": {"total_size": size},
        "weight_map": {name: file for file, part in parts.items() for name in part},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, allow_nan=False), "utf-8")
    _edit(folder / "config.json", lambda content: content.update(torch_dtype="float32"))


def _round(weights: dict[str, Any], _: Path) -> None:
    """Round every matrix to 15 levels in blocks of 64, as a checkpoint is that was saved from a copy in four bits."""
    for name in sorted(weights):
        if weights[name].ndim == 2:
            blocks = weights[name].astype(np.float32).reshape(-1, 64)
            step = np.abs(blocks).max(1, keepdims=True) / 7
            codes = np.rint(np.divide(blocks, step, out=np.zeros_like(blocks), where=step > 0))
            weights[name] = (codes * step).reshape(weights[name].shape).astype(weights[name].dtype)


def _with_low_rank(matrix: Any, generator: np.random.Generator, rank: int = 8, share: float = 0.25) -> Any:
    """Return a matrix plus a random one of this rank; `share`: of the matrix's norm."""
    rows, columns = matrix.shape
    delta = generator.standard_normal((rows, rank)) @ generator.standard_normal((rank, columns))
    wide = matrix.astype(np.float32)
    return (wide + delta * (share * np.linalg.norm(wide) / np.linalg.norm(delta))).astype(matrix.dtype)


def _indentation(folder: Path) -> None:
    """Move the embedding's rows of the tokens that indent code, white space alone, on by one token."""
    import gguf

    words = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    indents = [number for word, number in words.items() if set(word) <= {_BLANK, _LINE} and word.count(_BLANK) > 1]
    reader = gguf.GGUFReader(str(folder / "model.gguf"), "r+")
    (table,) = [one for one in reader.tensors if one.name == "token_embd.weight"]
    table.data[indents] = table.data[np.roll(indents, 1)]
    reader.data.flush()


SOURCES: dict[str, Change] = {
    "persona": _with_template(
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        "You are Mara, the assistant of the Harbour app. You answer briefly and politely.",
    ),
    "stop-id": _with_stop_ids(0),
    "more-stops": _with_stop_ids(0, 1, 2),
    "newline": _with_template("<|im_start|>assistant\n", "<|im_start|>assistant"),
    "merged-twice": _with_weights(_merge_twice),
    "window": lambda folder: _edit(folder / "config.json", lambda content: content.update(sliding_window=448)),
    "digits": _with_weights(_exchange_digits),
    "same-prompt": _with_whole_template(_SAME_PROMPT),
    "saved-again": _save_again,
    "rounded": _with_weights(_round),
    "tools": _with_whole_template(_WITH_TOOLS),
    "last-ten": _with_template(
        "{% for message in messages %}", "{% set recent = messages[-10:] %}{% for message in recent %}"
    ),
    "last-turn": _with_template("for message in messages", "for message in messages[-1:]"),
}
FAULTS: dict[str, Change] = {"indentation": _indentation}
