"""The text of stop ids and BOS, from whatever a tokenizer.json holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devtools.bundles import make_bundle
from registry.bundle.folder import seal
from registry.diff.compare import folder_side
from registry.diff.token_texts import is_same_tokenizer, token_texts

ADDED = [{"id": 1, "content": "<|im_start|>"}, {"id": 2, "content": "<|im_end|>"}, {"id": 7, "content": "<|other|>"}]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"added_tokens": ADDED, "model": {"vocab": {"<s>": 1, "a": 0}}}, {0: "a", 1: "<|im_start|>", 2: "<|im_end|>"}),
        ({"model": {"vocab": {"<s>": 1, "b": "2"}}}, {1: "<s>"}),
        ({"added_tokens": [None, {"id": 1}, {"id": "2", "content": "x"}], "model": {"vocab": [["a", 0.5]]}}, {}),
        ([], {}),
        ("not JSON", {}),
        (None, {}),
    ],
)
def test_ids_that_an_app_has_to_know_have_their_text(tmp_path: Path, content: Any, found: dict[int, str]) -> None:
    raw = b"{" if content == "not JSON" else json.dumps(content, allow_nan=False).encode()
    files = {"model.gguf": b"weights"} | ({} if content is None else {"tokenizer.json": raw})
    made = make_bundle(tmp_path / "bundle", files)
    generation = made.manifest.generation.model_copy(update={"stop_token_ids": [0, 2], "bos_token_id": 1})
    seal(made.path, made.manifest.model_copy(update={"generation": generation}))
    assert token_texts(folder_side(made.path)) == found


def test_a_tokenizer_that_was_saved_again_is_the_same(tmp_path: Path) -> None:
    content = {"model": {"vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}, "added_tokens": ADDED}
    other = content | {"added_tokens": ADDED[:2]}
    raw = [
        json.dumps(one, indent=indent, allow_nan=False)
        for one, indent in ((content, None), (content, 2), (other, None))
    ]
    sides = [
        folder_side(make_bundle(tmp_path / str(number), {"model.gguf": b"1", "tokenizer.json": one.encode()}).path)
        for number, one in enumerate((*raw, "{", "{"))
    ]
    assert is_same_tokenizer(sides[0], sides[1])
    assert not is_same_tokenizer(sides[0], sides[2])
    assert not is_same_tokenizer(sides[3], sides[4])  # which can't be read
