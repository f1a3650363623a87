"""What the oracle refuses, records and puts into the evidence. Planted misreadings are in `test_mutations.py`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.oracle import ask_oracle, check_bundle, oracle
from builders.tokenizer import Tokenizer
from devtools import cl100k
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError
from targets.progress import Event, Step
from targets.recipes import recipe_named
from tests.support.checkpoints import CHAT_TEMPLATE, random_weights, write_json, write_tiny, write_weights


def changed(folder: Path, file: str, **values: Any) -> Checkpoint:
    write_json(folder / file, json.loads((folder / file).read_bytes()) | values)
    return open_checkpoint(folder)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_newer_writer_is_refused_and_can_be_allowed(tmp_path: Path, file: str) -> None:
    checkpoint = changed(write_tiny(tmp_path / "c"), file, transformers_version="99.1.0")
    with pytest.raises(MeasurementError, match=r"written by transformers 99\.1\.0") as caught:
        ask_oracle(checkpoint)
    assert transformers.__version__ in caught.value.problem
    assert "--allow-newer-transformers" in caught.value.fix
    agreement = ask_oracle(checkpoint, allow_newer_transformers=True)
    assert agreement.on.endswith("the folder was written by transformers 99.1.0")


@pytest.mark.parametrize("version", ["4.40.1", transformers.__version__, "my fork", None, 5])
def test_other_writers_are_not(tmp_path: Path, version: object) -> None:
    checkpoint = changed(write_tiny(tmp_path / "c"), "config.json", transformers_version=version)
    assert "written by" not in ask_oracle(checkpoint).on


def test_what_transformers_cannot_read_is_an_error_that_says_so(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "c"))
    (checkpoint.path / "tokenizer.json").write_text('{"version": "1.0"}', "utf-8")
    with pytest.raises(MeasurementError, match=r"transformers \S+ can't read the tokenizer"):
        oracle.text_truth(checkpoint.path)


def test_one_checkpoint_is_asked_about_once(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ask_oracle(tiny, cache=tmp_path)
    (record,) = tmp_path.glob("oracle-*.json")
    monkeypatch.setattr(oracle, "text_truth", None)  # whoever asks again fails
    assert ask_oracle(tiny, cache=tmp_path) == first
    record.write_bytes(record.read_bytes()[:-9])
    with pytest.raises(TypeError):
        ask_oracle(tiny, cache=tmp_path)


def test_another_transformers_is_asked_again(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_oracle(tiny, cache=tmp_path)
    monkeypatch.setattr("builders.oracle.record.version", lambda name: "5.99.0" if name == "transformers" else "1")
    ask_oracle(tiny, cache=tmp_path)
    assert len(list(tmp_path.glob("oracle-*.json"))) == 2
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"oracle"}  # no excerpt is left


def test_a_different_reading_is_recorded_too(tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "decode", lambda *_: "nothing")
        with pytest.raises(MeasurementError, match="What differs first: the tokenizer") as first:
            ask_oracle(tiny, cache=tmp_path)
    with pytest.raises(MeasurementError) as again:
        ask_oracle(tiny, cache=tmp_path)
    assert (again.value.problem, again.value.fix) == (first.value.problem, first.value.fix)


def test_progress_ends_where_it_should(tiny: Checkpoint) -> None:
    steps: list[Event] = []
    ask_oracle(tiny, on_progress=steps.append)
    assert [(step.name, step.done, step.total) for step in steps if isinstance(step, Step)] == [
        ("oracle", done, 3) for done in range(4)
    ]


def test_a_bundle_with_another_tokenizer_is_refused(tiny: Checkpoint, tmp_path: Path) -> None:
    bundle = build(tiny, recipe_named("gguf-f16"), tmp_path / "bundle")
    text = ask_oracle(tiny).text
    check_bundle(bundle, text)
    path = bundle.file("tokenizer.json")
    content = json.loads(path.read_bytes())
    content["model"]["merges"].pop()
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(MeasurementError, match=r"the bundle does not read it as transformers .* the tokenizer"):
        check_bundle(bundle, text)


def test_a_bundle_with_another_bos_is_refused(tiny: Checkpoint, bundle: Bundle) -> None:
    generation = bundle.manifest.generation.model_copy(update={"bos_token_id": 1})
    other = Bundle(bundle.path, bundle.manifest.model_copy(update={"generation": generation}))
    with pytest.raises(MeasurementError, match="bos_token_id is 310 there, 1 here"):
        check_bundle(other, ask_oracle(tiny).text)


def test_stop_ids_that_no_file_states_may_be_more_but_not_fewer(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "c")
    (folder / "generation_config.json").unlink()
    checkpoint = open_checkpoint(folder)
    text = ask_oracle(checkpoint).text
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle")
    assert (text.stop_ids, text.has_stated_stop_ids) == ([310], False)
    for ids, is_right in (([310], True), ([310, 312], True), ([312], False), ([310, 5], False)):
        generation = bundle.manifest.generation.model_copy(update={"stop_token_ids": ids})
        other = Bundle(bundle.path, bundle.manifest.model_copy(update={"generation": generation}))
        if is_right:
            check_bundle(other, text)
        else:
            with pytest.raises(MeasurementError, match="stop ids are"):
                check_bundle(other, text)


def test_phi3_smalls_ranks_are_held_to_a_plain_splitter(tmp_path: Path) -> None:
    """As its repository has it: ranks, and code that is never run."""
    folder = write_tiny(tmp_path / "c", family="phi3small")
    config = json.loads((folder / "config.json").read_bytes())
    del config["dummy_token_indices"]
    config |= {"vocab_size": 100352} | dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 100257)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": 100257, "eos_token_id": [100257, 100266]})
    code = {"AutoTokenizer": ["tokenization_phi3_small.Phi3SmallTokenizer", None]}
    template = {"chat_template": "{{ bos_token }}" + CHAT_TEMPLATE}
    own = {"tokenizer_class": "Phi3SmallTokenizer", "auto_map": code} | template
    write_json(folder / "tokenizer_config.json", own)
    write_weights(folder, random_weights(config))
    (folder / "tokenizer.json").unlink()
    shutil.copy(cl100k.ensure(), folder)
    (folder / "tokenization_phi3_small.py").write_text("raise SystemExit", "utf-8")
    checkpoint = open_checkpoint(folder)
    agreement = ask_oracle(checkpoint)
    assert agreement.text.added["<|end|>"] == 100266
    check_bundle(build(checkpoint, recipe_named("onnx-fp16"), tmp_path / "bundle"), agreement.text)
