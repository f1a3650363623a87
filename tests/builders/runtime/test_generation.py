"""Answers: the template as transformers renders it, stop ids obeyed, whole characters only, in every runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.runtime.generation import _pieces, generate, render_prompt
from builders.runtime.sessions import open_session
from builders.tokenizer import Tokenizer as LoadedTokenizer
from builders.tokenizer import read_bundled_tokenizer
from registry.bundle.folder import Bundle, file_entries, open_bundle, seal
from targets.errors import BundleError, MeasurementError
from targets.progress import Event, Notice
from targets.recipes import recipe_named
from tests.support.checkpoints import edit_json, random_weights, write_tiny, write_weights

RECIPES = ("gguf-f16", "onnx-fp16", "coreml-fp16")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("generation") / "checkpoint", dtype="F16")


@pytest.fixture(scope="module")
def bundles(checkpoint: Path) -> dict[str, Bundle]:
    opened = open_checkpoint(checkpoint)
    return {name: build(opened, recipe_named(name), checkpoint.parent / name) for name in RECIPES}


def resealed(bundle: Bundle, folder: Path, **generation: object) -> Bundle:
    """Copy a bundle and change what its manifest says of generation."""
    for name in (entry.path for entry in bundle.manifest.files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((bundle.path / name).read_bytes())
    changed = bundle.manifest.generation.model_copy(update=generation)
    seal(folder, bundle.manifest.model_copy(update={"generation": changed, "files": file_entries(folder)}))
    return open_bundle(folder)


def test_the_prompt_is_rendered_as_transformers_does(checkpoint: Path, bundles: dict[str, Bundle]) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    messages = [{"role": "user", "content": "Hello <|user|> there\n"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert render_prompt(bundles["gguf-f16"], messages[0]["content"]) == expected


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_says_what_the_likeliest_tokens_say(bundles: dict[str, Bundle], recipe: str) -> None:
    bundle = bundles[recipe]
    tokenizer = read_bundled_tokenizer(bundle.path)
    ids = tokenizer.encode("the thing")
    stop = set(bundle.manifest.generation.stop_token_ids)
    said: list[int] = []
    with open_session(bundle) as session:
        for _ in range(6):
            token = int(session.score(np.asarray(ids + said))[-1].argmax())
            if token in stop:
                break
            said.append(token)
    assert "".join(generate(bundle, "the thing", max_new_tokens=6, use_template=False)) == tokenizer.decode(said)


def test_it_says_when_an_answer_outgrows_its_context(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", original_context=256, context=1024, dtype="F16")
    bundle = build(open_checkpoint(folder), recipe_named("gguf-f16"), tmp_path / "bundle", context_length=512)
    endless = resealed(bundle, tmp_path / "endless", stop_token_ids=[])
    for letters, said in ((100, 0), (250, 1), (300, 1)):  # a byte a token
        events: list[Event] = []
        list(generate(endless, "x" * letters, max_new_tokens=9, use_template=False, on_progress=events.append))
        notices = [event.text for event in events if isinstance(event, Notice)]
        assert len(notices) == len(events) == said
        assert all("llama.cpp is opened again, with a context of 512" in text for text in notices)


@pytest.mark.parametrize("recipe", ["gguf-f16", "coreml-fp16"])
def test_it_stops_at_a_stop_id(bundles: dict[str, Bundle], tmp_path: Path, recipe: str) -> None:
    bundle = bundles[recipe]
    with open_session(bundle) as session:
        first = int(session.prefill(np.asarray(read_bundled_tokenizer(bundle.path).encode("on"))).argmax())
    stopping = resealed(bundle, tmp_path / "stopping", stop_token_ids=[first])
    assert list(generate(stopping, "on", max_new_tokens=9, use_template=False)) == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_logits_without_a_largest_number_are_an_error(tmp_path: Path, recipe: str) -> None:
    """The first token would count as the likeliest, and the answer would be a row of exclamation marks."""
    folder = write_tiny(tmp_path / "checkpoint", dtype="F16")
    weights = random_weights(json.loads((folder / "config.json").read_bytes()))
    overflowing = {name: np.sign(each) * 3e4 if "qkv_proj" in name else each for name, each in weights.items()}
    write_weights(folder, overflowing, dtype="F16")
    if recipe == "gguf-f16":  # whose products are float32's up to the head
        write_weights(folder, {name: np.sign(each) * 3e4 for name, each in weights.items()}, dtype="F16")
    bundle = build(open_checkpoint(folder), recipe_named(recipe), tmp_path / "bundle")
    with pytest.raises(MeasurementError, match="bundle's logits after token 6 are not a distribution"):
        list(generate(bundle, "on", max_new_tokens=2))


def test_without_a_template_the_tokenizer_puts_its_own_tokens_around_the_prompt(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", dtype="F16")
    edit_json(folder / "tokenizer_config.json", chat_template=...)
    bos, text = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    special = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [310], "tokens": ["<|endoftext|>"]}}
    around = {"type": "TemplateProcessing", "single": [bos, text], "pair": [bos, text], "special_tokens": special}
    edit_json(folder / "tokenizer.json", post_processor=around)
    bundle = build(open_checkpoint(folder), recipe_named("gguf-f16"), tmp_path / "bundle", context_length=256)
    raw = list(generate(bundle, "the thing", max_new_tokens=4, use_template=False))
    assert list(generate(bundle, "the thing", max_new_tokens=4)) == raw
    with pytest.raises(MeasurementError, match="the prompt has 257 tokens"):  # a byte a token, and BOS
        list(generate(bundle, "x" * 256, max_new_tokens=4))


def test_bytes_that_are_no_character_end_no_answer() -> None:
    """With one such byte, the decoder of SentencePiece's tokenizers spells all bytes before it otherwise."""
    tokens = [*(f"<0x{byte:02X}>" for byte in range(256)), "a", "\u2581b"]
    model = models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[], byte_fallback=True)
    inner = Tokenizer(model)
    space = decoders.Replace("\u2581", " ")
    inner.decoder = decoders.Sequence([space, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = LoadedTokenizer(inner, b"")
    whole, broken = "\u4f60".encode(), "\u4f60".encode()[:1]
    assert list(_pieces(tokenizer, iter([256, *whole, 257]))) == ["a", "\u4f60", " b"]
    found = "".join(_pieces(tokenizer, iter([256, *whole, *broken, 257, 256, *broken])))
    assert found.startswith("a\u4f60")
    assert found.endswith(" ba\ufffd")


def test_a_prompt_past_the_context_is_refused(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(MeasurementError, match="511"):
        list(generate(bundles["gguf-f16"], "x" * 600, max_new_tokens=1))


def test_a_template_that_reaches_out_is_refused(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    """A chat template is a program from outside: it runs in a sandbox."""
    bundle = bundles["gguf-f16"]
    copy = resealed(bundle, tmp_path / "evil")
    (copy.path / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}", "utf-8")
    with pytest.raises(BundleError, match="chat template"):
        render_prompt(copy, "hello")


def test_a_bundle_without_a_template_takes_the_prompt_as_it_is(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    bare = resealed(bundles["gguf-f16"], tmp_path / "bare", chat_template=None)
    assert render_prompt(bare, "as it is") == "as it is"
    assert json.loads((bare.path / "manifest.json").read_bytes())["generation"]["chat_template"] is None
