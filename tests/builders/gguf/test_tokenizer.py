"""llama.cpp's own tokenizer on our files against the `tokenizers` library on the checkpoint's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from tokenizers import AddedToken, Tokenizer, processors

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.tokenizer import load_tokenizer, stop_token_ids
from targets.errors import CheckpointError, UnsupportedModelError
from targets.recipes import recipe_named
from tests.support import llama_cpp as llamacpp
from tests.support.cases import examples
from tests.support.checkpoints import (
    CHAT_TEMPLATE,
    SPECIAL,
    Tiny,
    edit_json,
    random_weights,
    write_json,
    write_tiny,
    write_weights,
)
from tests.support.sentencepiece_folder import write_sentencepiece
from tests.support.texts import TEXTS

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES_ONLY = BYTES | {"use_regex": False}
DIGITS = {"type": "Digits", "individual_digits": True}
SPLIT = {"type": "Split", "pattern": {"Regex": CL100K}, "behavior": "Isolated", "invert": False}
INVERTED = SPLIT | {"behavior": "Removed", "invert": True}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


PRE_TOKENIZERS = {  # name in llama.cpp → pre-tokenizer, ignore_merges
    "gpt-2": (BYTES, False),
    "smollm": (sequence(DIGITS, BYTES), False),
    "llama-bpe": (sequence(SPLIT, BYTES_ONLY), True),
    "dbrx": (sequence(INVERTED, BYTES_ONLY), False),
}


def change_json(folder: Path, change: Callable[[dict[str, Any]], object], name: str = "tokenizer.json") -> Path:
    content = json.loads((folder / name).read_bytes())
    change(content)
    write_json(folder / name, content)
    return folder


def gguf_of(folder: Path) -> Path:
    bundle = build(open_checkpoint(folder), recipe_named("gguf-q8_0"), folder.parent / f"{folder.name}-bundle")
    return bundle.file("model.gguf")


@pytest.fixture(scope="module", params=PRE_TOKENIZERS)
def byte_level(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Any, str]]:
    folder = write_tiny(tmp_path_factory.mktemp("tokenizer") / "checkpoint")
    pre_tokenizer, ignore_merges = PRE_TOKENIZERS[request.param]

    def change(content: dict[str, Any]) -> None:
        content["pre_tokenizer"] = pre_tokenizer
        content["model"]["ignore_merges"] = ignore_merges

    file = gguf_of(change_json(folder, change))
    with llamacpp.vocabulary(file) as theirs:
        yield theirs, load_tokenizer(folder), llamacpp.metadata(file)["tokenizer.ggml.pre"] + "=" + request.param


@settings(max_examples=examples(200), derandomize=True, deadline=None)
@given(text=TEXTS)
def test_byte_level_ids_are_the_checkpoints(byte_level: tuple[Any, Any, str], text: str) -> None:
    llama, checkpoint, name = byte_level
    found, expected = name.split("=")
    assert found == expected
    assert llama.encode(text) == checkpoint.encode(text)


# "json": as transformers 5 converts the model; "released json": in the form that Phi-3's repositories have.
@pytest.fixture(scope="module", params=["model", "json", "released json", "both"])
def pieces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    folder = write_sentencepiece(tmp_path_factory.mktemp("pieces") / "checkpoint")
    if request.param == "released json":
        (folder / "tokenizer.json").write_bytes(load_tokenizer(folder).to_json())
    elif request.param != "model":
        write_fast(folder)
    if "json" in request.param:
        (folder / "tokenizer.model").unlink()
    with llamacpp.vocabulary(gguf_of(folder)) as theirs:
        yield theirs, load_tokenizer(folder)


def write_fast(folder: Path) -> None:
    import transformers

    converted = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True)
    converted.backend_tokenizer.save(str(folder / "tokenizer.json"))


# After a special token llama.cpp drops ASCII whitespace, tokenizers Unicode's: no other whitespace here.
@settings(max_examples=examples(200), derandomize=True, deadline=None)
@given(text=TEXTS.map(lambda text: text.replace("\u00a0", "").replace("\u3000", "")))
def test_sentencepiece_ids_are_the_checkpoints(pieces: tuple[Any, Any], text: str) -> None:
    llama, checkpoint = pieces
    assert llama.encode(text) == checkpoint.encode(text)
    assert llama.encode(text, add_special=True) == checkpoint.encode(text, add_special_tokens=True)


def test_special_tokens_of_phi_3_swallow_whitespace_as_its_tokenizer_has_it(pieces: tuple[Any, Any]) -> None:
    llama, checkpoint = pieces
    text = "<|user|>\n the<|end|>\n\n<|assistant|>\n<|endoftext|>\n"
    assert llama.encode(text) == checkpoint.encode(text)
    assert llama.encode("<|user|>\n the") == llama.encode("<|user|>the")
    assert llama.encode("<|endoftext|>\n the") != llama.encode("<|endoftext|>the")


def test_every_stop_id_ends_an_answer(tiny_folder: Path, tmp_path: Path) -> None:
    for folder in (tiny_folder, write_sentencepiece(tmp_path / "pieces")):
        checkpoint = open_checkpoint(folder)
        bundle = build(checkpoint, recipe_named("gguf-q8_0"), tmp_path / f"{folder.name}-bundle")
        with llamacpp.vocabulary(bundle.file("model.gguf")) as vocabulary:
            assert len(stop_token_ids(checkpoint)) == 3
            assert all(vocabulary.ends(token) for token in stop_token_ids(checkpoint))
            assert not vocabulary.ends(SPECIAL["<|user|>"])
            assert vocabulary.size == checkpoint.architecture.vocabulary_size
        assert bundle.manifest.recipe.notes == []


def test_stop_ids_that_llama_cpp_has_no_place_for_are_noted(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    write_json(folder / "generation_config.json", {"eos_token_id": [310, 300, 301, 302]})
    notes = build(open_checkpoint(folder), recipe_named("gguf-q8_0"), tmp_path / "bundle").manifest.recipe.notes
    assert any("does not stop at 302 (<unused302>)" in note for note in notes)


def test_bos_is_put_where_the_post_processor_puts_it(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", pair="<|endoftext|> $A $B", special_tokens=[("<|endoftext|>", 310)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    with llamacpp.vocabulary(gguf_of(folder)) as vocabulary:
        assert vocabulary.encode("the", add_special=True) == load_tokenizer(folder).encode(
            "the", add_special_tokens=True
        )
        assert vocabulary.encode("the", add_special=True)[0] == 310


def test_rows_without_a_token_are_unused(tmp_path: Path) -> None:
    tiny = Tiny()
    folder = write_tiny(tmp_path / "checkpoint", tiny)
    config = tiny.config() | {"vocab_size": 352}
    write_json(folder / "config.json", config)
    write_weights(folder, random_weights(config))
    file = gguf_of(folder)
    found = llamacpp.metadata(file)
    assert found["tokenizer.ggml.tokens"][320:322] == ["[PAD320]", "[PAD321]"]
    assert set(found["tokenizer.ggml.token_type"][320:]) == {5}
    with llamacpp.vocabulary(file) as vocabulary:
        assert vocabulary.size == 352


def test_added_tokens_with_rules_that_llama_cpp_does_not_have_are_noted(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<|user|>", rstrip=True, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    # The template writes a line break after it, which is swallowed: every chat is another one in llama.cpp.
    with pytest.raises(UnsupportedModelError, match=r"llama\.cpp does not know the rules .* <\|user\|>"):
        build(open_checkpoint(folder), recipe_named("gguf-q8_0"), tmp_path / "bundle")
    edit_json(folder / "tokenizer_config.json", chat_template=CHAT_TEMPLATE.replace("\n", ""))
    bundle = build(open_checkpoint(folder), recipe_named("gguf-q8_0"), tmp_path / "bundle")
    assert any("<|user|>" in note for note in bundle.manifest.recipe.notes)
    assert "general.name" not in llamacpp.metadata(bundle.file("model.gguf"))


UNKNOWN_TO_LLAMA_CPP: dict[str, Callable[[dict[str, Any]], object]] = {
    "a space before": lambda c: c.update(pre_tokenizer=BYTES | {"add_prefix_space": True}),
    "digits by threes": lambda c: c.update(pre_tokenizer=sequence(DIGITS | {"individual_digits": False}, BYTES)),
    "another pattern": lambda c: c.update(pre_tokenizer=sequence(SPLIT | {"pattern": {"Regex": r"\w+"}}, BYTES_ONLY)),
    "no pre-tokenizer": lambda c: c.update(pre_tokenizer=None),
    "whitespace": lambda c: c.update(pre_tokenizer={"type": "Whitespace"}),
    "a normalizer": lambda c: c.update(normalizer={"type": "NFC"}),
    "whole words first": lambda c: c["model"].update(ignore_merges=True),
    "another model": lambda c: c.update(model={"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]}),
    "a post-processor": lambda c: c.update(post_processor={"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}),
    "bytes without tokens": lambda c: (
        c["model"].update(byte_fallback=True),
        c.update(normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}, pre_tokenizer=None),
    ),
}
DAMAGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "an id past the embedding": lambda c: c["model"]["vocab"].update({"zz": 320}),
    "a negative id": lambda c: c["model"]["vocab"].update({"zz": -1}),
    "an id that is a word": lambda c: c["model"]["vocab"].update({"zz": "one"}),
    "one token, two ids": lambda c: c["added_tokens"].append({"id": 319, "content": "<|end|>", "special": True}),
    "merges of one": lambda c: c["model"].update(merges=["the"]),
    "no merges": lambda c: c["model"].pop("merges"),
    "no model": lambda c: c.pop("model"),
    "added tokens without content": lambda c: c.update(added_tokens=[{"id": 3}]),
}


@pytest.mark.parametrize("kind", UNKNOWN_TO_LLAMA_CPP)
def test_what_llama_cpp_would_tokenize_otherwise_is_refused(kind: str, tmp_path: Path) -> None:
    folder = change_json(write_tiny(tmp_path / "checkpoint"), UNKNOWN_TO_LLAMA_CPP[kind])
    with pytest.raises(UnsupportedModelError, match=r"tokenizer|post-processor"):
        gguf_of(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_tokenizer_is_refused(kind: str, tmp_path: Path) -> None:
    folder = change_json(write_tiny(tmp_path / "checkpoint"), DAMAGED[kind])
    with pytest.raises(CheckpointError, match=r"tokenizer"):
        gguf_of(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"model": {"type": 7}}'])
def test_what_is_no_tokenizer_is_refused(raw: bytes, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    (folder / "tokenizer.json").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        gguf_of(folder)


@pytest.mark.parametrize("raw", [b"", b"\xff" * 40, b"no protobuf at all"])
def test_what_is_no_sentencepiece_model_is_refused(raw: bytes, tmp_path: Path) -> None:
    folder = write_sentencepiece(tmp_path / "checkpoint")
    (folder / "tokenizer.model").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: not a SentencePiece model"):
        gguf_of(folder)


def test_a_unigram_model_is_refused(tmp_path: Path) -> None:
    folder = write_sentencepiece(tmp_path / "checkpoint", model_type="unigram")
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder={})  # it has fewer pieces: other ids follow
    with pytest.raises(UnsupportedModelError, match=r"is Unigram; llama\.cpp"):
        gguf_of(folder)


def test_a_metaspace_that_llama_cpp_differs_from_is_noted(tmp_path: Path) -> None:
    folder = write_sentencepiece(tmp_path / "checkpoint")
    write_fast(folder)
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    change_json(folder, lambda content: content.update(normalizer=None, pre_tokenizer=metaspace))
    bundle = build(open_checkpoint(folder), recipe_named("gguf-q8_0"), tmp_path / "bundle")
    assert any("chats have the same ids; tokenize other texts" in note for note in bundle.manifest.recipe.notes)
    shutil.rmtree(bundle.path)
    edit_json(folder / "tokenizer_config.json", chat_template="Q: {{ messages[0]['content'] }}")
    bundle = build(open_checkpoint(folder), recipe_named("gguf-q8_0"), tmp_path / "bundle")
    assert any("only at the start of a text" in note for note in bundle.manifest.recipe.notes)
    shutil.rmtree(bundle.path)
    metaspace["split"] = True
    change_json(folder, lambda content: content.update(pre_tokenizer=metaspace))
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(UnsupportedModelError, match="Metaspace"))
        build(open_checkpoint(folder), recipe_named("gguf-q8_0"), bundle.path)
