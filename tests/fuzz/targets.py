"""The parsers, each with the bytes that it is given when nothing is wrong.

What is not here: weights in llama.cpp, onnxruntime and Core ML (native code, in a process of its own), MLflow's and
S3's answers before their clients have parsed them, and the exchange of HTTP itself (tests/registry/transfer).
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from builders.build_cache import BuildCache
from builders.checkpoint import open_checkpoint, read_json
from builders.checkpoint.adapter.config import CONFIG_NAME, read_adapter_config
from builders.checkpoint.shards import INDEX_NAME, read_header
from builders.checkpoint.tokenizer_files import default_chat_template
from builders.checkpoint.weight_files import find_weights
from builders.gguf.byte_level import byte_level_vocabulary
from builders.gguf.pieces import pieces_of_json, space_of_json
from builders.gguf.tokenizer_json import read_tokenizer_json
from builders.gguf.vocabulary import lay_out
from builders.runtime.coreml.program_file import read_program
from builders.tokenizer import read_bundled_tokenizer
from builders.tokenizer.tiktoken import tokenizer_json_of_ranks
from builders.tokenizer.unread import _pieces
from devtools.bundles import make_bundle, make_evidence
from registry.bundle.folder import Bundle
from registry.bundle.manifest import FileEntry, Manifest
from registry.bundle.parts import join, split
from registry.catalog.choice import Query, resolve
from registry.catalog.client import install_id, refreshed_targets
from registry.catalog.documents import Documents
from registry.catalog.signing import create_keys, open_keys
from registry.diff.gguf_contents import gguf_contents
from registry.diff.onnx_contents import onnx_contents
from registry.ledger.artifact_uris import parse_artifact_uri
from registry.ledger.channel_moves import CELL_TAG, OVERRODE_TAG, PROMOTERS_TAG, UNMOVED_TAG, move_from_tags
from registry.ledger.lease import _who
from registry.ledger.release_plan import promoters_of
from registry.ledger.tracking import tracking_uri
from registry.ledger.versions import version_from_tags
from registry.store.uris import parse_bundle_uri
from registry.transfer.delta import open_delta
from registry.transfer.delta_writer import make_delta
from registry.transfer.header_values import http_date, whole_number
from registry.transfer.http import redirected, retry_after_seconds
from registry.transfer.http_address import http_address_problem
from targets.config_json import read_architecture
from targets.errors import FetchError, PhipackError
from targets.evidence import Evidence
from targets.places import store_problem
from targets.project import load_project
from targets.references import Reference, VersionRange
from targets.secrets import argument_shown, shown, without_secrets
from targets.selection import Device
from tests.support.checkpoints import Tiny, write_tiny
from tests.support.chunked import entry_of
from tests.support.gguf_files import write_gguf

Parse = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """A parser: valid inputs, and what is done with an input. `inputs`: how many the test suite tries."""

    corpus: tuple[bytes, ...]
    parse: Parse
    inputs: int = 250


def _file(path: Path, read: Callable[[Path], object]) -> Parse:
    def parse(raw: bytes) -> object:
        path.write_bytes(raw)
        return read(path)

    return parse


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


# --- bundles


def _manifest(folder: Path) -> Target:
    bundle = make_bundle(folder / "bundle")
    chunked = bundle.manifest.model_copy(update={"files": [entry_of([b"aa", b"bbb"]), *bundle.manifest.files]})

    def parse(raw: bytes) -> object:
        manifest = Manifest.parse(raw, source="manifest")
        return manifest.digest, f"{manifest.total_bytes / 1e6:.1f} MB"

    return Target((bundle.manifest.to_bytes(), chunked.to_bytes()), parse)


def _delta(folder: Path) -> Target:
    content = bytes(range(256)) * 40
    old = make_bundle(folder / "old", {"model.gguf": content})
    entry = entry_of([content[:5000] + b"x" + content[5001:], content[:300]], "model.gguf")
    new = Bundle(folder / "new", old.manifest.model_copy(update={"files": [entry]}))
    new.path.mkdir()
    new.file("model.gguf").write_bytes(content[:5000] + b"x" + content[5001:] + content[:300])
    chunked = entry_of([content], "model.gguf")
    old = Bundle(old.path, old.manifest.model_copy(update={"files": [chunked]}))
    make_delta(old, new, folder / "delta")

    def read(path: Path) -> object:
        with open_delta(path, old) as delta:
            return [delta.chunk(chunk) for chunk in entry.chunks]

    return Target(((folder / "delta").read_bytes(),), _file(folder / "damaged", read))


def _parts(folder: Path) -> Target:
    split(make_bundle(folder / "bundle"), folder / "parts", 10_000)
    index = folder / "parts" / "part-1" / "parts.json"
    out = folder / "out"
    return Target((index.read_bytes(),), _file(index, lambda _: join(folder / "parts", out, replace=True)), 150)


def _evidence(folder: Path) -> Target:
    evidence = make_evidence(make_bundle(folder / "bundle"))
    return Target((evidence.to_json().encode(),), lambda raw: Evidence.parse(raw, source="evidence").to_json())


def _contents(name: str, raw: bytes, read: Callable[[Manifest, Any], object]) -> Target:
    def parse(damaged: bytes) -> object:
        entry = FileEntry(path=name, bytes=len(damaged), sha256="0" * 64)
        return read(Manifest.model_construct(files=[entry]), lambda _: io.BytesIO(damaged))

    return Target((raw,), parse)


def _gguf(folder: Path) -> Target:
    write_gguf(folder / "model.gguf", {"a": np.ones((2, 32), np.float32), "b": np.ones(32, np.float16)})
    return _contents("model.gguf", (folder / "model.gguf").read_bytes(), gguf_contents)


def _onnx(_: Path) -> Target:
    import onnx

    initializers = [onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "a")]
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], initializers))
    return _contents("model.onnx", model.SerializeToString(), onnx_contents)


# --- checkpoints


def _header(folder: Path) -> Target:
    from safetensors.numpy import save

    raw = save({"a": np.ones((2, 3), np.float32), "b": np.ones(5, np.float16)}, {"format": "pt"})
    return Target((raw,), _file(folder / "model.safetensors", read_header))


def _index(folder: Path) -> Target:
    checkpoint = write_tiny(folder / "checkpoint", shards=2)
    index = checkpoint / INDEX_NAME
    return Target((index.read_bytes(),), _file(index, lambda _: find_weights(checkpoint)))


def _config(folder: Path) -> Target:
    checkpoint = write_tiny(folder / "checkpoint")
    path = checkpoint / "config.json"
    return Target((path.read_bytes(),), _file(path, lambda _: open_checkpoint(checkpoint)), 200)


def _architecture(folder: Path) -> Target:
    configs = [Tiny(family=family).config() for family in ("phi3", "phi3small", "llama")]
    configs.append(
        configs[0] | {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}}
    )

    def read(path: Path) -> object:
        return read_architecture(read_json(path, required=True))

    return Target(tuple(json.dumps(config).encode() for config in configs), _file(folder / "config.json", read))


def _tokenizer_config(folder: Path) -> Target:
    path = write_tiny(folder / "checkpoint") / "tokenizer_config.json"
    named = {"chat_template": [{"name": "default", "template": "x"}, {"name": "rag", "template": "y"}]}
    corpus = (path.read_bytes(), json.dumps(json.loads(path.read_bytes()) | named).encode())
    return Target(corpus, _file(path, lambda _: default_chat_template(path.parent, read_json(path, required=True))))


def _adapter(folder: Path) -> Target:
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
    config |= {"target_modules": ["qkv_proj", "o_proj"], "bias": "none", "rank_pattern": {"o_proj": 2}}
    return Target((json.dumps(config).encode(),), _file(folder / CONFIG_NAME, lambda _: read_adapter_config(folder)))


def _ranks(folder: Path) -> Target:
    tokens = [*(bytes([byte]) for byte in range(256)), b"ab", b"abab", b"abc"]
    raw = b"\n".join(base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(tokens))
    path = folder / "cl100k_base.tiktoken"
    listed = {"added_tokens_decoder": {"300": {"content": "<|end|>", "special": True}}}
    return Target((raw,), _file(path, lambda _: tokenizer_json_of_ranks(path, listed)), 150)


def _tokenizer_json(folder: Path) -> Target:
    checkpoint = write_tiny(folder / "checkpoint")
    path = checkpoint / "tokenizer.json"

    def read(_: Path) -> object:
        tokenizer = read_bundled_tokenizer(checkpoint)
        tokenizer.encode("The quick brown fox")
        file = read_tokenizer_json(tokenizer.to_json(), source="tokenizer")
        if not file.model.byte_fallback:
            return byte_level_vocabulary(file, 4096, source="tokenizer")
        space_of_json(file, starts_with_token=True, source="tokenizer")
        return lay_out(pieces_of_json(file), file.added, 4096, source="tokenizer")

    return Target((path.read_bytes(),), _file(path, read), 150)


def _pieces_model(folder: Path) -> Target:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    for piece in ("<unk>", "a", "ab"):
        model.pieces.add(piece=piece, score=-1.0)
    return Target((model.SerializeToString(),), _file(folder / "tokenizer.model", _pieces))


def _core_ml(folder: Path) -> Target:
    from coremltools import proto

    model = proto.Model_pb2.Model()
    main = model.mlProgram.functions["main"]
    main.opset = "CoreML8"
    operations = main.block_specializations["CoreML8"].operations
    constant = operations.add(type="const")
    constant.outputs.add(name="c")
    value = constant.attributes["val"]
    value.type.tensorType.dataType = 23
    value.type.tensorType.dimensions.add().constant.size = 2
    value.immediateValue.tensor.ints.values.extend((1, 2))
    step = operations.add(type="add")
    step.inputs["x"].arguments.add(name="c")
    step.outputs.add(name="y").type.tensorType.dataType = 11
    path = folder / "model.mlpackage" / "Data" / "com.apple.CoreML" / "model.mlmodel"
    path.parent.mkdir(parents=True)
    return Target((model.SerializeToString(),), _file(path, lambda _: read_program(folder / "model.mlpackage")))


# --- the registry


_VERSION_TAGS = {
    f"phipack.{name}": "x"
    for name in ("model", "cell", "checkpoint", "recipe", "target", "digest", "gates", "evidence", "run", "store")
} | {"phipack.release": "1.0.0"}
_MOVE_TAGS = {"phipack.move": "promotion", "phipack.channel": "production", "phipack.who": "me", "phipack.why": "x"}
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _tags(_: Path) -> Target:
    version = {"release": "1.0.0", "number": 1, "digest": "sha256:0", "registered_model": "phi.a"}
    values: list[Any] = [
        {"before": version, "after": None, "evidence": "sha256:1"},
        version,
        ["alice", "bob"],
        [{"cell": "a", "problem": "slow"}, "b: wrong"],
        {"release": "1.0.0", "promoters": ["alice"]},
        {"checkpoint": "sha256:0"},
        {"who": "me", "beat": 1},
    ]

    def parse(raw: bytes) -> None:
        tag = _text(raw)
        _who(tag)
        for name in ("phipack.inputs", "phipack.release", "phipack.digest"):
            with suppress(PhipackError):
                version_from_tags("phi.a", 1, _VERSION_TAGS | {name: tag}, created_ms=0, channels=())
        for name in (f"{CELL_TAG}.a", f"{UNMOVED_TAG}.a", PROMOTERS_TAG, OVERRODE_TAG, "phipack.move"):
            with suppress(PhipackError):
                str(move_from_tags(_MOVE_TAGS | {name: tag}, run_id="r", model="phi", when=_NOW, state="done").title)
        with suppress(PhipackError):
            promoters_of({"phipack.promoters.production": tag}, "production")

    return Target(tuple(json.dumps(value).encode() for value in values), parse, 250)


_DEVICE = Device(os="iOS", os_version="18.1", ram_bytes=8 << 30)


class _Given(Documents):
    """A catalog whose one document is given."""

    raw: bytes = b""

    def _read(self, path: str, sha256: str, size: int) -> bytes:
        return self.raw

    def _malformed(self, path: str, why: str) -> PhipackError:
        return PhipackError(f"{path}: {why}", fix="publish again")


def _documents(_: Path) -> Target:
    digest = "sha256:" + "0" * 64
    device = {"title": "iPhone 15", "soc": "A16", "os": "iOS", "minimum_os": "18.0", "identifiers": ["iPhone15,4"]}
    cell = {"target": "iphone-15", "recipe": "r", "format": "gguf", "bundle": digest, "manifest_bytes": 5, "bytes": 9}
    release = {
        "schema": "phipack.release/1",
        "model": "phi",
        "release": "1.0.0",
        "devices": {"iphone-15": device | {"ram_bytes": 6 << 30}},
        "cells": {"iphone-15": cell | {"deltas": [{"from": digest, "blob": digest, "bytes": 3}]}},
    }
    stages = [{"release": "1.0.0", "basis_points": 10_000}]
    channel = {"schema": "phipack.channel/1", "model": "phi", "channel": "production", "cells": {"iphone-15": stages}}

    class File:
        hashes = {"sha256": "0" * 64}  # noqa: RUF012
        length = 1

    def parse(raw: bytes) -> None:
        for path in ("phi/releases/1.0.0.json", "phi/channels/production.json"):
            documents = _Given({path: File()})  # type: ignore[dict-item]
            documents.raw = raw
            with suppress(PhipackError):
                resolve(documents, Query(Reference.parse("phi:1.0.0" if "releases" in path else "phi"), _DEVICE))
            with suppress(PhipackError):
                str(documents.release("phi", "1.0.0"))

    return Target((json.dumps(release).encode(), json.dumps(channel).encode()), parse, 250)


def _keys(folder: Path) -> Target:
    create_keys(folder / "keys", {})
    path = folder / "keys" / "keys.json"
    return Target((path.read_bytes(),), _file(path, lambda _: open_keys(folder / "keys")), 150)


def _root(folder: Path) -> Target:
    from tuf.api.exceptions import DownloadHTTPError
    from tuf.ngclient import FetcherInterface

    class Nothing(FetcherInterface):
        def _fetch(self, url: str) -> Any:
            raise DownloadHTTPError(url, 404)

    create_keys(folder / "keys", {})
    path = folder / "keys" / "1.root.json"
    number = iter(range(1 << 60))

    def read(_: Path) -> object:
        metadata = folder / "metadata" / str(next(number))
        try:
            return refreshed_targets("https://example.org", Nothing(), metadata, path, wait=lambda _: True)
        except FetchError as error:
            if "is not a catalog" not in error.problem:  # the root was read: next, a timestamp is asked for
                raise
            return None

    return Target((path.read_bytes(),), _file(path, read), 60)


def _install_id(folder: Path) -> Target:
    return Target((b"kiosk 7\n",), _file(folder / "install-id", lambda _: install_id(folder)), 200)


def _record(folder: Path) -> Target:
    cache = BuildCache(folder)
    cache.write_record("built", "key", {"digest": "sha256:0"})
    path = folder / "work" / "built" / "key.json"
    return Target((path.read_bytes(),), _file(path, lambda _: cache.read_record("built", "key")), 200)


# --- what people and servers write


def _project(folder: Path) -> Target:
    source = """
model = "phi-3-mini-4k-instruct"
version = "1.0.0"
checkpoint = "checkpoint"
[[cells]]
target = "iphone-15"
recipe = "gguf-q4_k_m"
[gates]
kl_mean = { at_most = 0.05 }
"same_top_share" = { at_least = 0.9 }
[channels.production]
promoters = ['alice', "b\\u00f6b"]
[registry]
store = "s3://bucket/x"
"""
    return Target((source.encode(),), _file(folder / "phipack.toml", load_project))


def _headers(_: Path) -> Target:
    def parse(raw: bytes) -> None:
        text = raw.decode("latin-1")
        whole_number(text)
        http_date(text)
        assert retry_after_seconds(text) >= 0
        redirected("https://example.org/a", text)

    dates = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994 +0100")
    return Target(tuple(text.encode() for text in (*dates, "120", "https://u:p@host:80/x?y#z", "../b")), parse, 800)


def _addresses(_: Path) -> Target:
    def parse(raw: bytes) -> None:
        text = _text(raw)
        for read in (without_secrets, argument_shown, shown, http_address_problem, store_problem):
            read(text)
        for refusing in (tracking_uri, parse_bundle_uri, parse_artifact_uri, Reference.parse, VersionRange.parse):
            with suppress(PhipackError):
                refusing(text)

    addresses = (
        "postgresql+psycopg2://u:se/cret2@host:5432/db?password=x",
        "https://u:p@[::1]:80/a?token=b#c",
        "s3://bucket/prefix",
        "sqlite:////tmp/mlflow.db",
        "phipack-file:///store/bundles/sha256/" + "0" * 64,
        "phi-3:^1.2@iphone-15",
    )
    return Target(tuple(address.encode() for address in addresses), parse, 500)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "manifest": _manifest,
    "delta": _delta,
    "parts": _parts,
    "evidence": _evidence,
    "gguf": _gguf,
    "onnx": _onnx,
    "safetensors": _header,
    "index": _index,
    "config": _config,
    "architecture": _architecture,
    "tokenizer_config": _tokenizer_config,
    "adapter": _adapter,
    "ranks": _ranks,
    "tokenizer_json": _tokenizer_json,
    "sentencepiece": _pieces_model,
    "core_ml": _core_ml,
    "tags": _tags,
    "documents": _documents,
    "keys": _keys,
    "root": _root,
    "install_id": _install_id,
    "record": _record,
    "project": _project,
    "headers": _headers,
    "addresses": _addresses,
}
