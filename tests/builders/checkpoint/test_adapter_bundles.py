"""Bundles of a base and an adapter: those of the checkpoint that peft would have saved, named by both digests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.build import build, build_each
from builders.checkpoint import open_checkpoint
from builders.checkpoint.adapter import MergedCheckpoint, merge
from builders.conversion import BuildRequest
from builders.matrix.keys import build_key
from builders.relayout import relayout
from builders.sizes import bundle_sizes
from builders.tokenizer import bundled_tokenizer
from builders.validation.origin import require_origin
from registry.bundle.folder import Bundle
from registry.bundle.manifest import merged_digest
from targets.errors import CheckpointError, MeasurementError
from targets.layouts import stored_shapes
from targets.recipes import recipe_named
from tests.support.adapters import change_tensors, peft_merges, write_adapter
from tests.support.checkpoints import CHAT_TEMPLATE, write_json, write_tiny

RECIPES = ("gguf-q8_0", "onnx-fp16", "coreml-int4")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of every kind: products, DoRA's none, a saved head, rows of single tokens."""
    return write_adapter(
        base,
        tmp_path_factory.mktemp("adapter") / "adapter",
        modules_to_save=["lm_head"],
        trainable_token_indices=[3, 310],
        rank_pattern={"o_proj": 2},
    )


@pytest.fixture(scope="module")
def merged(base: Path, whole: Path) -> MergedCheckpoint:
    return merge(open_checkpoint(base), whole)


@pytest.fixture(scope="module")
def bundles(merged: MergedCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """Bundles of all formats, built together, in lockstep."""
    folder = tmp_path_factory.mktemp("bundles")
    requests = {folder / name: BuildRequest.from_checkpoint(merged, recipe_named(name), 256) for name in RECIPES}
    built: dict[str, Bundle] = {}
    problems = build_each(requests, done=lambda out, bundle: built.update({out.name: bundle}))
    assert problems == {}
    return built


@pytest.fixture
def adapter(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "adapter"))


@pytest.fixture(scope="module")
def saved(base: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What peft saves of the two, with the base's tokenizer."""
    folder = tmp_path_factory.mktemp("saved") / "saved"
    peft_merges(base, whole).save_pretrained(folder)
    for path in base.iterdir():
        if path.name.startswith(("tokenizer", "generation_config", "config")):
            shutil.copy(path, folder / path.name)
    return folder


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_format_has_the_bytes_of_the_checkpoint_that_peft_saves(
    bundles: dict[str, Bundle], saved: Path, tmp_path: Path, recipe: str
) -> None:
    theirs = build(open_checkpoint(saved), recipe_named(recipe), tmp_path / "theirs", context_length=256)
    ours = bundles[recipe].manifest
    assert ours.files == theirs.manifest.files
    assert ours.generation == theirs.manifest.generation
    assert ours.model == theirs.manifest.model
    assert ours.checkpoint != theirs.manifest.checkpoint


@pytest.mark.parametrize("recipe", RECIPES)
def test_sizes_are_known_before(bundles: dict[str, Bundle], merged: MergedCheckpoint, recipe: str) -> None:
    request = BuildRequest.from_checkpoint(merged, recipe_named(recipe), 256)
    assert bundle_sizes(request) == {file.path: file.bytes for file in bundles[recipe].manifest.files}


def test_the_manifest_names_base_and_adapter(bundles: dict[str, Bundle], merged: MergedCheckpoint) -> None:
    for bundle in bundles.values():
        parts = bundle.manifest.merged_from
        assert parts is not None
        assert (parts.base, parts.adapter) == (merged.base.digest, merged.adapter.digest)
        assert bundle.manifest.checkpoint == merged.digest == merged_digest(parts.base, parts.adapter)
        assert "an adapter is merged into the base; tokenizer and chat template are the base's" in (
            bundle.manifest.recipe.notes
        )


def test_the_digest_follows_what_decides(base: Path, merged: MergedCheckpoint, adapter: Path, tmp_path: Path) -> None:
    def digest() -> str:
        return merge(open_checkpoint(base), adapter).digest

    assert digest() == merged.digest != merged.base.digest
    (adapter / "README.md").write_text("Changed.", "utf-8")
    assert digest() == merged.digest
    change_tensors(adapter, lambda tensors: tensors[min(tensors)].__setitem__((0, 0), 1.0))
    changed = digest()
    assert changed != merged.digest
    write_json(adapter / "adapter_config.json", json.loads((adapter / "adapter_config.json").read_bytes()))
    assert digest() != changed
    other = write_tiny(tmp_path / "other", seed=1)
    assert merge(open_checkpoint(other), adapter).digest != merge(open_checkpoint(base), adapter).digest


def test_a_build_of_another_adapter_is_another_build(merged: MergedCheckpoint) -> None:
    keys = {build_key(one.digest, recipe_named("gguf-q8_0"), 256) for one in (merged, merged.base)}
    assert len(keys) == 2


def test_the_base_or_another_adapter_is_refused_for_the_bundle(
    bundles: dict[str, Bundle], bundle: Bundle, merged: MergedCheckpoint, base: Path, adapter: Path, tmp_path: Path
) -> None:
    own = bundles["gguf-q8_0"]
    require_origin(own, merged)
    with pytest.raises(MeasurementError, match="a base and the adapter sha256:") as caught:
        require_origin(own, merged.base)
    assert caught.value.fix == "name the adapter too: --adapter DIR"
    with pytest.raises(MeasurementError, match="built without an adapter"):
        require_origin(bundle, merged)
    change_tensors(adapter, lambda tensors: tensors[min(tensors)].__setitem__((0, 0), 1.0))
    with pytest.raises(MeasurementError, match=rf"adapter {merged.adapter.digest}, not with sha256:"):
        require_origin(own, merge(open_checkpoint(base), adapter))
    other = merge(open_checkpoint(write_tiny(tmp_path / "other", seed=1)), adapter)
    with pytest.raises(MeasurementError, match=rf"from checkpoint {merged.base.digest}, not from"):
        require_origin(own, other)


def test_the_merged_checkpoint_can_be_written_in_every_layout(merged: MergedCheckpoint, tmp_path: Path) -> None:
    """Its own layout is what peft saves; Llama's and back gives the same bytes."""
    relayout(merged, "phi3", tmp_path / "phi3")
    relayout(merged, "llama", tmp_path / "llama")
    relayout(open_checkpoint(tmp_path / "llama"), "phi3", tmp_path / "back")
    expected = merged.open_tensors()
    for name in ("phi3", "back"):
        written = open_checkpoint(tmp_path / name)
        assert written.architecture == merged.architecture
        for tensor in stored_shapes(merged.architecture):
            assert written.stored_tensors[tensor].dtype == "BF16"
            np.testing.assert_array_equal(
                written.open_tensors().stored_tensor(tensor), expected.stored_tensor(tensor), err_msg=tensor
            )


def test_a_head_that_is_no_longer_tied_is_written_untied(tmp_path: Path) -> None:
    tied = write_tiny(tmp_path / "tied", tied=True, dtype="F16")
    adapter = write_adapter(
        tied, tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"], vocabulary_size=330
    )
    merged = merge(open_checkpoint(tied), adapter)
    relayout(merged, "phi3", tmp_path / "written")
    written = open_checkpoint(tmp_path / "written")
    assert written.architecture == merged.architecture
    assert (written.architecture.tied_embeddings, written.architecture.vocabulary_size) == (False, 330)
    head = written.open_tensors().tensor("lm_head.weight")
    np.testing.assert_array_equal(head, merged.open_tensors().tensor("lm_head.weight"))


# -- the tokenizer


def bring_tokenizer(base: Path, adapter: Path, **added: int) -> None:
    """Put the base's tokenizer into the adapter's folder, with more tokens, and a template of its own."""
    content: dict[str, Any] = json.loads((base / "tokenizer.json").read_bytes())
    facts = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] += [{"id": number, "content": token} | facts for token, number in added.items()]
    write_json(adapter / "tokenizer.json", content)
    config = json.loads((base / "tokenizer_config.json").read_bytes())
    write_json(adapter / "tokenizer_config.json", config | {"chat_template": "tuned " + CHAT_TEMPLATE})


def test_an_adapters_tokenizer_and_template_are_the_bundles(base: Path, adapter: Path, tmp_path: Path) -> None:
    bring_tokenizer(base, adapter)
    merged = merge(open_checkpoint(base), adapter)
    bundle = build(merged, recipe_named("gguf-q8_0"), tmp_path / "bundle", context_length=256)
    assert bundle.file("chat_template.jinja").read_text("utf-8").startswith("tuned ")
    assert bundle.file("tokenizer.json").read_bytes() == (adapter / "tokenizer.json").read_bytes()
    assert bundle.manifest.recipe.notes[0].endswith("tokenizer and chat template are the adapter's")
    before = merged.digest
    (adapter / "tokenizer.json").write_bytes((adapter / "tokenizer.json").read_bytes() + b"\n")
    assert merge(open_checkpoint(base), adapter).digest != before


def test_added_tokens_need_rows_of_their_own(base: Path, adapter: Path, tmp_path: Path) -> None:
    bring_tokenizer(base, adapter, **{"<|tool|>": 325})
    merged = merge(open_checkpoint(base), adapter)
    with pytest.raises(CheckpointError, match="the embedding was not resized") as caught:
        bundled_tokenizer(merged, "onnx")
    assert str(adapter) in caught.value.problem or "325" in caught.value.problem
    resized = write_adapter(base, tmp_path / "resized", vocabulary_size=330, save_embedding_layers=True)
    bring_tokenizer(base, resized, **{"<|tool|>": 325})
    merged = merge(open_checkpoint(base), resized)
    bundle = build(merged, recipe_named("onnx-fp16"), tmp_path / "bundle", context_length=256)
    assert bundle.manifest.model.vocabulary_size == 330


def test_a_tokenizer_of_another_base_is_refused(base: Path, adapter: Path) -> None:
    bring_tokenizer(base, adapter)
    content = json.loads((adapter / "tokenizer.json").read_bytes())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    write_json(adapter / "tokenizer.json", content)
    merged = merge(open_checkpoint(base), adapter)
    for kind in ("gguf", "onnx", "coreml"):
        with pytest.raises(CheckpointError, match=r"for '[ab]', the base's"):
            bundled_tokenizer(merged, kind)


def test_a_part_of_a_tokenizer_is_refused(base: Path, adapter: Path) -> None:
    write_json(adapter / "tokenizer_config.json", {"chat_template": "tuned"})
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json without tokenizer\.json or tokenizer\.model"):
        merge(open_checkpoint(base), adapter)
