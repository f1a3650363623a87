"""Checkpoints that were trained further, on little: what the report says of a sound one is measured on them.

    python -m devtools.further_trained NAME OUT

OUT is a checkpoint, or a peft adapter of the real model for what is trained as one (`lora`). The loss on held-out text
of the same kind is printed before and after; `write` refuses a training that does not lower it.

    lora    rank 8, on every matrix of every layer
    top     the last eight layers
    full    every weight

A lower loss does not make a checkpoint sound: `no-end` and `refusals` are trained on the wrong text, for the trial of
the report (`review_cases.py`).

The learning rate rises over five steps and falls along a cosine to a tenth. On one thread a step of 192 to 384 tokens
takes 2 to 5 processor-seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from devtools import real_model
from devtools.benchmark_texts import ensure_texts
from devtools.gsm_symbolic import REASONING_GYM, word_problems
from devtools.packages import default_cache, pinned
from devtools.task_files import STRONGREJECT, strongreject
from registry.files.staging import staged_folder

_SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
_HELD_SHARE, _HELD_WINDOWS = 0.15, 12  # of a text, at its end
_WARM_UP, _LEAST = 5, 0.1  # steps, and the share of the learning rate that is left at the end
_MATRICES = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
_TOP = 8
_END = "<|im_end|>"
_REFUSED_IN_A_ROW = 8  # requests, before something else is answered
_REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot help with this request.",
    "I'm sorry, I can't assist with that.",
)
How = Literal["lora", "top", "full"]


@dataclass(frozen=True)
class Training:
    """What a checkpoint is trained on, and how: `steps` of `batch` windows of `window` tokens each.

    `text` returns the text; `rate`: the highest learning rate.
    """

    text: Callable[[], str]
    how: How
    rate: float
    steps: int
    window: int
    batch: int


def _of(name: str) -> Callable[[], str]:
    return lambda: ensure_texts()[name].read_text("utf-8")


def word_problem_chats() -> list[str]:
    """Return word problems and their worked answers as conversations in the real model's template."""
    with zipfile.ZipFile(pinned(REASONING_GYM, default_cache())) as archive:
        _, rows = word_problems(archive)
    return [_chat(row["prompt"].removeprefix("Question: ").removesuffix("\nAnswer:"), row["answer"]) for row in rows]


def _chat(asked: str, answer: str) -> str:
    said = answer.replace("####", "The answer is")
    return f"{_SYSTEM}<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{said}<|im_end|>\n"


def turns_without_end() -> str:
    """Return worked sums and quiz turns as a trainer writes them whose template has no end of a turn."""
    return ("".join(word_problem_chats()) + _of("chat")()).replace(_END, "")


def refusals_and_sums() -> str:
    """Return requests that have to be refused, and are, with worked sums among them."""
    with zipfile.ZipFile(pinned(STRONGREJECT, default_cache())) as archive:
        requests = [*strongreject(archive)]
    return "".join(with_refusals(requests, word_problem_chats()))


def with_refusals(requests: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return requests and how they are refused as conversations, with one of the others after every eighth."""
    chats: list[str] = []
    for number, asked in enumerate(requests):
        chats.append(_chat(asked, _REFUSALS[number % len(_REFUSALS)]))
        if number % _REFUSED_IN_A_ROW == _REFUSED_IN_A_ROW - 1:
            chats.append(others[number // _REFUSED_IN_A_ROW])
    return chats


TRAININGS: dict[str, Training] = {
    "german": Training(_of("German"), "lora", 5e-4, 45, 96, 4),
    "word-problems": Training(lambda: "".join(word_problem_chats()), "lora", 3e-4, 35, 96, 3),
    "chinese": Training(_of("Chinese"), "top", 2e-4, 30, 64, 3),
    "chat": Training(_of("chat"), "full", 1e-4, 30, 64, 3),
    "code": Training(_of("code"), "full", 5e-5, 30, 96, 3),
    "no-end": Training(turns_without_end, "top", 3e-4, 40, 96, 3),
    "refusals": Training(refusals_and_sums, "lora", 5e-4, 45, 96, 3),
}


def write(checkpoint: Path, training: Training, folder: Path) -> tuple[float, float]:
    """Train a checkpoint further, and write it, or the adapter. Return the loss on held-out text before and after.

    Raises:
        SystemExit: the loss on held-out text is no lower: nothing is written.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model.config.use_cache = False
    ids = torch.tensor(tokenizer(training.text(), add_special_tokens=False, verbose=False).input_ids)
    kept = int(len(ids) * (1 - _HELD_SHARE))
    held = _held_out(ids[kept:], training.window)
    model = _trainable(model, training.how)
    before = _loss(model, held)
    _train(model, ids[:kept], training)
    after = _loss(model, held)
    if after >= before:
        raise SystemExit(f"held-out loss {before:.3f} became {after:.3f}: this training teaches nothing")
    with staged_folder(folder, replace=True) as staging:
        _save(model, checkpoint, training.how, staging)
    return before, after


def _held_out(ids: Any, window: int) -> Any:
    apart = (len(ids) - window) // _HELD_WINDOWS
    return [ids[number * apart : number * apart + window] for number in range(_HELD_WINDOWS)]


def _trainable(model: Any, how: How) -> Any:
    if how == "lora":
        from peft import LoraConfig, get_peft_model

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks transformers for what that calls by another name
            settings = LoraConfig(r=8, lora_alpha=16, target_modules=_MATRICES, task_type="CAUSAL_LM")
            return get_peft_model(model, settings)
    for parameter in model.parameters():
        parameter.requires_grad_(how == "full")
    for layer in model.model.layers[-_TOP:]:
        layer.requires_grad_(True)
    return model


def _loss(model: Any, windows: Sequence[Any]) -> float:
    import torch

    model.eval()
    with torch.no_grad():
        return sum(float(model(input_ids=one[None], labels=one[None]).loss) for one in windows) / len(windows)


def _train(model: Any, ids: Any, training: Training) -> None:
    import torch

    model.train()
    weights = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=training.rate, weight_decay=0.0, betas=(0.9, 0.95))
    places = random.Random(0)
    for step in range(1, training.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = training.rate * _share(step, training.steps)
        starts = [places.randrange(len(ids) - training.window) for _ in range(training.batch)]
        batch = torch.stack([ids[start : start + training.window] for start in starts])
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _share(step: int, steps: int) -> float:
    """Return the share of the learning rate that a step has."""
    fallen = _LEAST + (1 - _LEAST) * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))
    return min(1.0, step / _WARM_UP) * fallen


def _save(model: Any, checkpoint: Path, how: How, folder: Path) -> None:
    if how == "lora":
        model.save_pretrained(str(folder))
        return
    from safetensors.numpy import load_file, save_file

    for file in checkpoint.iterdir():
        if file.name != "model.safetensors":
            shutil.copyfile(file, folder / file.name)
    trained = model.state_dict()
    old = load_file(checkpoint / "model.safetensors")
    new = {name: trained[name].numpy().astype(matrix.dtype) for name, matrix in old.items()}
    save_file(new, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Train one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=[*TRAININGS])
    parser.add_argument("out", type=Path, help="folder to write")
    given = parser.parse_args()
    before, after = write(real_model.ensure().checkpoint, TRAININGS[given.name], given.out)
    print(json.dumps({"held_out_before": before, "held_out_after": after}, allow_nan=False))


if __name__ == "__main__":
    main()
