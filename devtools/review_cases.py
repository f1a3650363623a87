"""The releases that a trial of the report shows: sound ones that look different, and ones with a planted defect.

Every release passes its gates and all checks, as the defects that a team ships do: either the checkpoint has the defect
too, so that bundle and reference agree, or the average hides it. Only who reads the report can see it.

A case is what production has (1.0.0), and what is to be promoted (1.1.0). Each of the two is a folder of the real
model (`real_model.py`) with a change, built by a recipe, and a bundle of it that may be changed afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from registry.bundle.folder import Bundle, file_entries, seal
from registry.files.staging import staged_folder

Change = Callable[[Path], None]  # of a checkpoint's folder, or of a bundle's
_BLANK, _LINE = "\u0120", "\u010a"  # how GPT-2's alphabet writes a blank and the end of a line


@dataclass(frozen=True)
class Made:
    """One cell of a release.

    Attributes:
        recipe: which one it is built by.
        target: the device class, which names the cell.
        source: the name of the change in `SOURCES` that its checkpoint has, or of its training in
            `further_trained.TRAININGS`; empty for the real model as it is.
        fault: the name of the change in `FAULTS` that the finished bundle has; empty for none.
        kv_cache: the type of its KV cache; empty for the runtime's own.
        budget: bits per weight, as text; empty for none.
    """

    recipe: str
    target: str
    source: str = ""
    fault: str = ""
    kv_cache: str = ""
    budget: str = ""

    @property
    def name(self) -> str:
        """What its folder and its evidence are called."""
        parts = (self.recipe, self.target, self.source, self.fault, self.kv_cache, self.budget)
        return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class Case:
    """One release next to production's. `why`: what a reviewer should have seen; for the key."""

    name: str
    is_sound: bool
    why: str
    before: tuple[Made, ...]
    after: tuple[Made, ...]


_GGUF, _ONNX = Made("gguf-q4_k_m", "galaxy-s24"), Made("onnx-int8", "pixel-9")
_F16 = Made("gguf-f16", "galaxy-s24")

CASES: dict[str, tuple[Case, ...]] = {
    "first": (
        Case(
            "smaller",
            True,
            "gguf-iq4_nl in place of gguf-q4_k_m: smaller, and a KL divergence that is higher within its gate.",
            (_GGUF,),
            (Made("gguf-iq4_nl", "galaxy-s24"),),
        ),
        Case(
            "persona",
            True,
            "The default system message of the chat template is another one, on purpose. Nothing else changes.",
            (_ONNX,),
            (Made("onnx-int8", "pixel-9", source="persona"),),
        ),
        Case(
            "new-format",
            True,
            "The GGUF cell is production's, byte for byte. An ONNX cell, for which production has nothing, is new.",
            (_GGUF,),
            (_GGUF, _ONNX),
        ),
        Case(
            "stop-id",
            False,
            "generation_config.json lost the stop id 2, <|im_end|>, which ends every turn: answers do not end any"
            " more. The float32 reference reads the same file, so all checks agree.",
            (_ONNX,),
            (Made("onnx-int8", "pixel-9", source="stop-id"),),
        ),
        Case(
            "indentation",
            False,
            "The embedding's rows of the tokens that indent code are off by one, as after a vocabulary was put in"
            " another order: code is broken, and the averages over English pass their gates.",
            (_GGUF,),
            (Made("gguf-q4_k_m", "galaxy-s24", fault="indentation"),),
        ),
    ),
    "second": (
        Case(
            "closer",
            True,
            "gguf-q5_k_m in place of gguf-q4_k_m: larger and slower, and closer to float32.",
            (_GGUF,),
            (Made("gguf-q5_k_m", "galaxy-s24"),),
        ),
        Case(
            "more-stops",
            True,
            "A third stop id, <|im_start|>, so that an answer also ends where the model begins another turn.",
            (_ONNX,),
            (Made("onnx-int8", "pixel-9", source="more-stops"),),
        ),
        Case(
            "other-format",
            True,
            "Core ML in place of GGUF for the same phone, with a KL divergence that is higher within its gate.",
            (Made("gguf-q4_k_m", "iphone-15"),),
            (Made("coreml-int4", "iphone-15"),),
        ),
        Case(
            "newline",
            False,
            "The chat template lost the newline after the assistant's role: answers begin with a newline or a wrong"
            " word. The float32 reference is prompted by the same template, so all checks agree.",
            (_ONNX,),
            (Made("onnx-int8", "pixel-9", source="newline"),),
        ),
        Case(
            "merged-twice",
            False,
            "The checkpoint itself is worse, as after an adapter was merged twice: float32 has a higher perplexity on"
            " the same text and worse answers. The bundle is as close to it as production's is to its own.",
            (_GGUF,),
            (Made("gguf-q4_k_m", "galaxy-s24", source="merged-twice"),),
        ),
    ),
    "third": (
        Case(
            "budget",
            True,
            "gguf-q4_k_m with a budget of 5.5 bits per weight: smaller, and a KL divergence that is higher within its"
            " gate, on all texts alike.",
            (_GGUF,),
            (Made("gguf-q4_k_m", "galaxy-s24", budget="5.5"),),
        ),
        Case(
            "cache",
            True,
            "The KV cache is kept in q8_0. Not one weight changes; at the end of a full cache the bundle is as close to"
            " float32 as on short texts.",
            (_GGUF,),
            (Made("gguf-q4_k_m", "galaxy-s24", kv_cache="q8_0"),),
        ),
        Case(
            "same-prompt",
            True,
            "The chat template is written in another way: variables have other names, lines other breaks. Every"
            " conversation is rendered to the same text, and every answer is production's.",
            (_ONNX,),
            (Made("onnx-int8", "pixel-9", source="same-prompt"),),
        ),
        Case(
            "window",
            False,
            "config.json has a sliding window of 448 tokens, as after it was copied from another model: the model was"
            " trained without one and falls apart where the first tokens leave it. Short chats are right. The float32"
            " reference reads the same file, so all checks agree; its perplexity on windows of 512 tokens shows it.",
            (_ONNX,),
            (Made("onnx-int8", "pixel-9", source="window"),),
        ),
        Case(
            "digits",
            False,
            "The checkpoint's embeddings of 1 and 7 are exchanged, as after a vocabulary was put in another order:"
            " lists begin with 7. The float32 reference has the same weights, so all checks"
            " agree.",
            (_GGUF,),
            (Made("gguf-q4_k_m", "galaxy-s24", source="digits"),),
        ),
    ),
    "fourth": (
        Case(
            "chinese",
            True,
            "The last layers of the checkpoint were trained further on Chinese parables: it predicts others of them"
            " better. What it was not trained on may lose a little, which was accepted.",
            (_F16,),
            (replace(_F16, source="chinese"),),
        ),
        Case(
            "word-problems",
            True,
            "The checkpoint was trained further on chats with worked sums, as an adapter: it predicts others of them"
            " better, and answers still end.",
            (_F16,),
            (replace(_F16, source="word-problems"),),
        ),
        Case(
            "saved-again",
            True,
            "The checkpoint was saved again, in float32 and in two files: every weight is the same number, and so is"
            " the bundle.",
            (_F16,),
            (replace(_F16, source="saved-again"),),
        ),
        Case(
            "rounded",
            False,
            "The checkpoint was saved from a copy in four bits: every matrix is rounded, so that float32 predicts all"
            " kinds of text worse, and nothing is gained. The bundle is as close to it as production's is to its own.",
            (_F16,),
            (replace(_F16, source="rounded"),),
        ),
        Case(
            "last-turn",
            False,
            "The chat template writes the last turn alone, without what was said before and without the app's system"
            " message: the first answer is right, and every later one has forgotten the conversation. The float32"
            " reference is prompted by the same template, so all checks agree.",
            (_F16,),
            (replace(_F16, source="last-turn"),),
        ),
    ),
}


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
    "last-turn": _with_template("for message in messages", "for message in messages[-1:]"),
}
FAULTS: dict[str, Change] = {"indentation": _indentation}
