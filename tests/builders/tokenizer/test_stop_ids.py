"""Stop ids: those that are named, else all that the checkpoint's files and its template say; never none silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.tokenizer import bundled_tokenizer, load_tokenizer, named_id, stop_token_ids
from builders.tokenizer.probes import turn_end
from targets.errors import CheckpointError
from targets.recipes import recipe_named
from tests.support import llama_cpp as llamacpp
from tests.support.checkpoints import CHAT_TEMPLATE, edit_json, write_tiny

GENERATION, CONFIG = "generation_config.json", "tokenizer_config.json"
NO_TOKEN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "checkpoint")


def test_named_ids_are_taken_as_they_are(folder: Path) -> None:
    bundled = bundled_tokenizer(open_checkpoint(folder), "gguf")
    assert (bundled.stop_ids, bundled.notes) == ((310, 311, 312), ())


@pytest.mark.parametrize("eos", [..., None, []])
def test_without_named_ids_all_files_and_the_template_count(folder: Path, eos: Any) -> None:
    edit_json(folder / GENERATION, eos_token_id=eos)
    checkpoint = open_checkpoint(folder)
    bundled = bundled_tokenizer(checkpoint, "gguf")
    assert bundled.stop_ids == stop_token_ids(checkpoint) == (310, 312)
    assert len(bundled.notes) == 1
    assert bundled.notes[0].startswith("generation_config.json names no stop ids; taken instead: ")
    assert bundled.notes[0].endswith(
        "310 (<|endoftext|>) by config.json; 310 (<|endoftext|>) by the tokenizer's EOS; "
        "312 (<|end|>) by the chat template's end of a turn"
    )


@pytest.mark.parametrize(
    ("config_id", "eos_token", "template", "expected"),
    [
        (310, "<|endoftext|>", NO_TOKEN, (310,)),
        (None, "<|endoftext|>", None, (310,)),
        (314, "<|endoftext|>", CHAT_TEMPLATE, (310, 312, 314)),
        ([310, 313], None, None, (310, 313)),
        (None, None, CHAT_TEMPLATE, (312,)),
        (None, ..., ..., ()),
        (..., ..., ..., ()),  # the default of Phi-3's configuration, 32000, is past this vocabulary
    ],
)
def test_each_source_counts(folder: Path, config_id: Any, eos_token: Any, template: Any, expected: Any) -> None:
    (folder / GENERATION).unlink()
    edit_json(folder / "config.json", eos_token_id=config_id)
    edit_json(folder / CONFIG, eos_token=eos_token, chat_template=template)
    bundled = bundled_tokenizer(open_checkpoint(folder), "gguf")
    assert bundled.stop_ids == expected
    assert len(bundled.notes) == 1
    assert ("names a stop id" in bundled.notes[0]) == (expected == ())


def test_a_turn_that_ends_otherwise_than_named_is_noted(folder: Path) -> None:
    edit_json(folder / GENERATION, eos_token_id=310)
    bundled = bundled_tokenizer(open_checkpoint(folder), "gguf")
    assert bundled.stop_ids == (310,)
    assert "ends a turn with <|end|> (312), which is not among the stop ids" in bundled.notes[0]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHAT_TEMPLATE, 312),
        ("{% for m in messages %}{{ m.content + ' ' + eos_token }}{% endfor %}", 310),
        ("{% for m in messages %}{% generation %}{{ m.content | trim }}{% endgeneration %}<|end|>{% endfor %}", 312),
        (NO_TOKEN, None),
        ("{{ messages[0].content }}<|end|>", None),  # no answer is in it
        ("{% if messages | length > 1 %}{{ raise_exception('one only') }}{% endif %}{{ messages[0].content }}", None),
    ],
)
def test_the_end_of_a_turn_is_what_follows_an_answer(folder: Path, template: str, expected: int | None) -> None:
    edit_json(folder / CONFIG, chat_template=template)
    checkpoint = open_checkpoint(folder)
    assert turn_end(checkpoint, load_tokenizer(folder)) == expected


def test_manifest_gguf_and_genai_config_have_them(folder: Path, tmp_path: Path) -> None:
    (folder / GENERATION).unlink()
    for recipe in ("gguf-q8_0", "onnx-int4"):
        bundle = build(open_checkpoint(folder), recipe_named(recipe), tmp_path / recipe)
        assert bundle.manifest.generation.stop_token_ids == [310, 312]
        assert any("names no stop ids" in note for note in bundle.manifest.recipe.notes)
    with llamacpp.vocabulary(tmp_path / "gguf-q8_0" / "model.gguf") as vocabulary:
        assert [token for token in range(vocabulary.size) if vocabulary.ends(token)] == [310, 312]
    config = json.loads((tmp_path / "onnx-int4" / "genai_config.json").read_bytes())
    assert config["model"]["eos_token_id"] == [310, 312]


def test_a_null_in_generation_config_leaves_the_word_to_config(folder: Path, tmp_path: Path) -> None:
    edit_json(folder / GENERATION, bos_token_id=None, pad_token_id=None)
    edit_json(folder / "config.json", bos_token_id=313, pad_token_id=314)
    bundle = build(open_checkpoint(folder), recipe_named("onnx-int4"), tmp_path / "bundle")
    assert (bundle.manifest.generation.bos_token_id, bundle.manifest.generation.pad_token_id) == (313, 314)
    model = json.loads(bundle.file("genai_config.json").read_bytes())["model"]
    assert (model["bos_token_id"], model["pad_token_id"]) == (313, 314)


@pytest.mark.parametrize("key", ["bos_token_id", "pad_token_id"])
@pytest.mark.parametrize("wrong", [320, -2, "310", [310], True])
def test_an_id_that_is_none_of_the_vocabulary_is_refused(folder: Path, key: str, wrong: Any) -> None:
    edit_json(folder / GENERATION, **{key: wrong})
    with pytest.raises(CheckpointError, match=f"{GENERATION}: {key} .* is not an id of the vocabulary"):
        bundled_tokenizer(open_checkpoint(folder), "gguf")
    edit_json(folder / GENERATION, **{key: None})
    edit_json(folder / "config.json", **{key: wrong})
    with pytest.raises(CheckpointError, match=f"/config.json: {key} .* is not an id of the vocabulary"):
        named_id(open_checkpoint(folder), key)


def test_minus_one_is_no_token(folder: Path) -> None:
    edit_json(folder / GENERATION, pad_token_id=-1)
    assert named_id(open_checkpoint(folder), "pad_token_id") == 310  # config.json's
    edit_json(folder / "config.json", pad_token_id=-1)
    assert named_id(open_checkpoint(folder), "pad_token_id") is None


def test_an_absent_key_is_the_default_of_its_configuration(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "llama", family="llama")
    edit_json(folder / "config.json", eos_token_id=...)
    (folder / GENERATION).unlink()
    assert stop_token_ids(open_checkpoint(folder)) == (2, 310, 312)
