"""Phi-3-small's tokenizer: the `tokenizer.json` that bundles carry against tiktoken itself, on the real ranks."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.tokenizer import Tokenizer, load_tokenizer, read_bundled_tokenizer
from builders.tokenizer.tiktoken import PHI3_SMALL_TOKENS, joined, read_ranks
from devtools import cl100k
from targets.errors import CheckpointError, UnsupportedModelError
from targets.recipes import recipe_named
from tests.support.cases import examples
from tests.support.checkpoints import Tiny, random_weights, write_json, write_weights

NAMED = [token for token in PHI3_SMALL_TOKENS if "dummy" not in token]
pieces = st.one_of(
    st.text(max_size=12),
    st.sampled_from(NAMED),
    st.sampled_from(
        ["  ", "\n\n", "\r\n", "\t", " the", "don't", "I'LL", "def f(x):\n    return x", "1234567", "…", "👩🏽‍🚀"]
    ),
)
texts = st.lists(pieces, max_size=8).map("".join).filter(lambda text: text.encode("utf-8", "ignore").decode() == text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Phi-3-small with the real vocabulary, as its repository has it: ranks, and code that is never run."""
    place = tmp_path_factory.mktemp("tiktoken") / "checkpoint"
    place.mkdir()
    config = Tiny(family="phi3small").config() | {"vocab_size": 100352, "dummy_token_indices": [100256]}
    config |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 100257)
    write_json(place / "config.json", config)
    write_json(place / "generation_config.json", {"bos_token_id": 100257, "eos_token_id": [100257, 100266]})
    code = {"AutoTokenizer": ["tokenization_phi3_small.Phi3SmallTokenizer", None]}
    write_json(place / "tokenizer_config.json", {"tokenizer_class": "Phi3SmallTokenizer", "auto_map": code})
    write_weights(place, random_weights(config))
    shutil.copy(cl100k.ensure(), place)
    return place


@cache
def _tiktoken() -> Any:
    import tiktoken

    # cl100k_base's own pattern, from tiktoken's documentation of it.
    pattern = (
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"""
        r"""\s+(?!\S)|\s"""
    )
    return tiktoken.Encoding(
        "cl100k", pat_str=pattern, mergeable_ranks=read_ranks(cl100k.ensure()), special_tokens=dict(PHI3_SMALL_TOKENS)
    )


@cache
def _ours(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


@settings(max_examples=examples(400), deadline=None)
@given(text=texts)
def test_ids_and_text_are_tiktokens(folder: Path, text: str) -> None:
    ids = _tiktoken().encode(text, allowed_special="all")
    ours = _ours(folder)
    assert ours.encode(text) == ids
    plain = [number for number in ids if number < min(PHI3_SMALL_TOKENS.values())]
    assert ours.decode(ids) == _tiktoken().decode(plain)


def test_every_rank_is_its_own_id(folder: Path) -> None:
    vocabulary = _ours(folder).vocabulary()
    assert len(vocabulary) == 100352
    assert {token: vocabulary[token] for token in PHI3_SMALL_TOKENS} == dict(PHI3_SMALL_TOKENS)


@pytest.mark.parametrize("recipe", ["onnx-int4", pytest.param("coreml-int4", marks=pytest.mark.every_case)])
def test_a_bundle_carries_what_runtimes_read(folder: Path, tmp_path: Path, recipe: str) -> None:
    checkpoint = open_checkpoint(folder)
    bundle = build(checkpoint, recipe_named(recipe), tmp_path / "bundle")
    again = build(checkpoint, recipe_named(recipe), tmp_path / "again")
    assert bundle.digest == again.digest
    config = json.loads(bundle.file("tokenizer_config.json").read_bytes())
    assert (config["tokenizer_class"], "auto_map" in config) == ("PreTrainedTokenizerFast", False)
    assert not (bundle.path / "cl100k_base.tiktoken").exists()
    text = "<|user|>\nHow many 'r's in straßenbahn, 12345?<|end|>\n<|assistant|>\n"
    assert read_bundled_tokenizer(bundle.path).encode(text) == _ours(folder).encode(text)
    assert bundle.manifest.generation.stop_token_ids == [100257, 100266]


def test_the_digest_covers_the_ranks(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    with (copy / "cl100k_base.tiktoken").open("ab") as stream:
        stream.write(b"\n")
    assert open_checkpoint(copy).digest != open_checkpoint(folder).digest


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("cl100k_base.tiktoken", b"!!!! 0\n", CheckpointError),
        ("cl100k_base.tiktoken", b"QQ==\n", CheckpointError),
        ("o200k_base.tiktoken", b"QQ== 0\n", UnsupportedModelError),
    ],
)
def test_damaged_and_foreign_ranks_are_refused(
    tmp_path: Path, name: str, content: bytes, kind: type[CheckpointError]
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=r"tiktoken"):
        load_tokenizer(tmp_path)


BYTES = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]


def ranks_of(path: Path, lines: list[str]) -> dict[bytes, int]:
    path.write_text("\n".join(lines))
    return read_ranks(path)


@pytest.mark.parametrize("missing", [0, 7, 255])
def test_ranks_without_one_of_the_bytes_are_refused(tmp_path: Path, missing: int) -> None:
    lines = [line for byte, line in enumerate(BYTES) if byte != missing]
    with pytest.raises(CheckpointError, match=f"byte 0x{missing:02x} has no rank"):
        ranks_of(tmp_path / "cl100k_base.tiktoken", lines)


class Counted(dict[bytes, int]):
    """Counts how often a rank is looked up."""

    count = 0

    def get(self, key: bytes, default: int) -> int:  # type: ignore[override]
        self.count += 1
        return super().get(key, default)


def test_a_long_token_takes_steps_in_proportion_to_its_length() -> None:
    """8 kB took 3.5 s: each of its merges went through all of it."""
    ranks = Counted({b"a" * (1 << power): power for power in range(13)})
    token = b"a" * (1 << 13)
    assert joined(token, 13, ranks) == [token[: 1 << 12]] * 2
    assert ranks.count < 4 * len(token)


def joined_plainly(token: bytes, below: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """tiktoken's rule, written as it is stated."""
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        found = [ranks.get(left + right, below) for left, right in itertools.pairwise(parts)]
        if min(found) >= below:
            break
        place = found.index(min(found))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


LETTERS = st.lists(st.sampled_from(b"ab"), min_size=2, max_size=12).map(bytes)


@given(token=LETTERS, ranked=st.lists(LETTERS, unique=True, max_size=12), below=st.integers(0, 12))
def test_neighbours_are_joined_by_the_rule(token: bytes, ranked: list[bytes], below: int) -> None:
    ranks = {each: rank for rank, each in enumerate(ranked)}
    assert joined(token, below, ranks) == joined_plainly(token, below, ranks)
