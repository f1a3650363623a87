"""The releases of the trial: what each change of a checkpoint or a bundle does, and how many defects a trial has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors.numpy import load_file, save_file

from builders.checkpoint import open_checkpoint
from devtools.bundles import make_bundle
from devtools.further_trained import TRAININGS
from devtools.review_cases import CASES
from devtools.review_changes import FAULTS, SOURCES, write_faulty, write_source
from registry.bundle.folder import open_bundle, verify
from tests.support.checkpoints import write_tiny

TEMPLATE = (  # the real model's
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
EMBEDDING = "model.embed_tokens.weight"
INDENTS = ("\u0120\u0120", "\u010a\u0120\u0120", "\u0120\u0120\u0120")
WORDS = ("<|endoftext|>", "\u0120", "a", "\u010a", *INDENTS)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name, content in {
        "config.json": {"hidden_size": 32, "sliding_window": None},
        "tokenizer.json": {"model": {"vocab": {str(digit): digit for digit in range(10)}}},
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": [0, 2]},
        "tokenizer_config.json": {"chat_template": TEMPLATE},
    }.items():
        (folder / name).write_text(json.dumps(content, allow_nan=False), "utf-8")
    matrices = {f"model.layers.0.{name}.weight": np.ones((16, 32), np.float16) for name in ("mlp.down_proj", "norm")}
    matrices[EMBEDDING] = np.arange(10, dtype=np.float16)[:, None].repeat(32, axis=1)
    save_file(matrices, folder / "model.safetensors")
    return folder


def test_each_trial_has_five_releases_and_two_or_three_defects() -> None:
    for cases in CASES.values():
        assert [case.is_sound for case in cases].count(False) in {2, 3}
        assert len({case.name for case in cases}) == 5
        for made in (one for case in cases for one in (*case.before, *case.after)):
            assert (made.source or "persona") in SOURCES | TRAININGS
            assert (made.fault or "indentation") in FAULTS
        defects = [one for case in cases if not case.is_sound for one in case.after]
        assert all(one.source or one.fault for one in defects)
        assert not any(one.source or one.fault for case in cases for one in case.before)


@pytest.mark.parametrize(("source", "stops"), [("stop-id", [0]), ("more-stops", [0, 1, 2]), ("persona", [0, 2])])
def test_stop_ids(checkpoint: Path, tmp_path: Path, source: str, stops: list[int]) -> None:
    write_source(checkpoint, source, tmp_path / "new")
    assert _read(tmp_path / "new", "generation_config.json")["eos_token_id"] == stops
    assert _read(checkpoint, "generation_config.json")["eos_token_id"] == [0, 2]


def test_one_line_break_less(checkpoint: Path, tmp_path: Path) -> None:
    write_source(checkpoint, "newline", tmp_path / "new")
    after = _read(tmp_path / "new", "tokenizer_config.json")["chat_template"]
    assert after == TEMPLATE.replace("assistant\n", "assistant")
    assert len(after) == len(TEMPLATE) - 1


def test_a_worse_checkpoint_is_another_file(checkpoint: Path, tmp_path: Path) -> None:
    write_source(checkpoint, "merged-twice", tmp_path / "new")
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "new"))
    assert {name for name in before if (before[name] != after[name]).any()} == {"model.layers.0.mlp.down_proj.weight"}
    assert (before["model.layers.0.norm.weight"] == 1).all()


def test_a_sliding_window_is_all_that_changes(checkpoint: Path, tmp_path: Path) -> None:
    write_source(checkpoint, "window", tmp_path / "new")
    assert _read(tmp_path / "new", "config.json") == _read(checkpoint, "config.json") | {"sliding_window": 448}
    assert _read(checkpoint, "config.json")["sliding_window"] is None


def test_a_checkpoint_that_was_saved_again_has_the_same_numbers(tmp_path: Path) -> None:
    old = write_tiny(tmp_path / "old", dtype="F16")
    write_source(old, "saved-again", tmp_path / "new")
    before, after = open_checkpoint(old), open_checkpoint(tmp_path / "new")
    assert before.digest != after.digest
    assert len(list((tmp_path / "new").glob("*.safetensors"))) == 2
    assert before.stored_tensors.keys() == after.stored_tensors.keys()
    one = load_file(old / "model.safetensors")
    for file in (tmp_path / "new").glob("*.safetensors"):
        for name, matrix in load_file(file).items():
            assert matrix.dtype == np.float32
            assert (matrix == one.pop(name)).all()
    assert not one


def test_a_rounded_checkpoint_has_fifteen_levels_in_each_block(tmp_path: Path) -> None:
    old = write_tiny(tmp_path / "old", dtype="F16")
    write_source(old, "rounded", tmp_path / "new")
    before, after = (load_file(folder / "model.safetensors") for folder in (old, tmp_path / "new"))
    for name, matrix in before.items():
        if matrix.ndim == 1:
            assert (after[name] == matrix).all()
            continue
        blocks, rounded = (one[name].astype(np.float32).reshape(-1, 64) for one in (before, after))
        step = np.abs(blocks).max(1, keepdims=True) / 7
        assert (np.abs(rounded - blocks) <= step * 0.505).all()  # half a step, and float16's own rounding
        assert (np.abs(rounded / step - np.rint(rounded / step)) < 0.01).all()
        assert (rounded != blocks).mean() > 0.5


def test_a_template_that_forgets_writes_the_last_turn_alone(checkpoint: Path, tmp_path: Path) -> None:
    before, after = _both_templates(checkpoint, "last-turn", tmp_path / "new")
    first = {"role": "user", "content": "I am Ada."}
    said, asked = {"role": "assistant", "content": "Hello, Ada."}, {"role": "user", "content": "Who am I?"}
    for messages, forgotten in (([first], False), ([first, said, asked], True)):
        conversation = {"messages": messages, "add_generation_prompt": True}
        assert (_rendered(before, conversation) != _rendered(after, conversation)) == forgotten
        assert ("Ada" in _rendered(after, conversation)) != forgotten


@pytest.mark.parametrize("has_system_message", [False, True])
def test_a_template_that_writes_ten_messages_loses_the_system_message_in_the_sixth_turn(
    checkpoint: Path, tmp_path: Path, has_system_message: bool
) -> None:
    before, after = _both_templates(checkpoint, "last-ten", tmp_path / "new")
    messages = [{"role": "system", "content": "You are Mara."}] if has_system_message else []
    for turn in range(1, 8):
        messages.append({"role": "user", "content": f"question {turn}"})
        conversation = {"messages": messages, "add_generation_prompt": True}
        whole, written = _rendered(before, conversation), _rendered(after, conversation)
        assert (whole == written) == (len(messages) <= 10) == (turn <= 5)
        assert ("Mara" in written) == (has_system_message and turn <= 5)
        messages.append({"role": "assistant", "content": f"answer {turn}"})


@pytest.mark.parametrize("turns", [("user",), ("system", "user"), ("system", "user", "assistant", "user")])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_template_with_tools_writes_the_same_without_any(
    checkpoint: Path, tmp_path: Path, turns: tuple[str, ...], add_generation_prompt: bool
) -> None:
    before, after = _both_templates(checkpoint, "tools", tmp_path / "new")
    messages = [{"role": role, "content": f" said by {role} {place}\n"} for place, role in enumerate(turns)]
    conversation = {"messages": messages, "add_generation_prompt": add_generation_prompt}
    assert _rendered(before, conversation) == _rendered(after, conversation)
    assert _rendered(before, conversation) == _rendered(after, conversation | {"tools": None})
    with_tool = _rendered(after, conversation | {"tools": [{"name": "weather"}]})
    assert '{"name": "weather"}' in with_tool
    assert with_tool.count("<|im_start|>system") == 1
    assert all(one["content"] in with_tool for one in messages)


def test_rows_of_two_digits_are_exchanged_in_another_file(checkpoint: Path, tmp_path: Path) -> None:
    write_source(checkpoint, "digits", tmp_path / "new")
    (before, after) = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "new"))
    assert before[EMBEDDING][:, 0].tolist() == [*range(10)]
    assert after[EMBEDDING][:, 0].tolist() == [0, 7, 2, 3, 4, 5, 6, 1, 8, 9]
    assert all((before[name] == after[name]).all() for name in before if name != EMBEDDING)


@pytest.mark.parametrize("turns", [("user",), ("system", "user"), ("user", "assistant", "user")])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_template_that_is_written_in_another_way_renders_the_same(
    checkpoint: Path, tmp_path: Path, turns: tuple[str, ...], add_generation_prompt: bool
) -> None:
    before, after = _both_templates(checkpoint, "same-prompt", tmp_path / "new")
    messages = [{"role": role, "content": f" {{{{ {place} }}}}\n"} for place, role in enumerate(turns)]
    conversation = {"messages": messages, "add_generation_prompt": add_generation_prompt}
    assert before != after
    assert _rendered(before, conversation) == _rendered(after, conversation) != ""


def test_rows_of_indentation_are_off_by_one_and_the_bundle_is_sealed(tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(str(path), "phi3")
    writer.add_tensor("token_embd.weight", np.arange(len(WORDS), dtype=np.float32)[:, None].repeat(32, axis=1))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    words = {"model": {"vocab": {word: number for number, word in enumerate(WORDS)}}}
    content = {"model.gguf": path.read_bytes(), "tokenizer.json": json.dumps(words, allow_nan=False).encode()}
    write_faulty(make_bundle(tmp_path / "bundle", content), "indentation", tmp_path / "faulty")
    faulty = open_bundle(tmp_path / "faulty")
    verify(faulty)
    (table,) = gguf.GGUFReader(str(faulty.file("model.gguf"))).tensors
    assert table.data[:, 0].tolist() == [0, 1, 2, 3, 6, 4, 5]


def _rendered(template: str, conversation: dict[str, Any]) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers has it
    return environment.from_string(template).render(**conversation)


def _both_templates(checkpoint: Path, source: str, folder: Path) -> list[str]:
    write_source(checkpoint, source, folder)
    return _templates(checkpoint, folder)


def _templates(*folders: Path) -> list[str]:
    return [_read(folder, "tokenizer_config.json")["chat_template"] for folder in folders]


def _read(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text("utf-8"))
    return found
