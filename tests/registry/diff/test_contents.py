"""Directories of weight files, compared with the formats' own libraries; damage is reported."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tracemalloc
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devtools.bundles import make_bundle
from registry.bundle.folder import open_bundle
from registry.bundle.manifest import FileEntry, Manifest
from registry.diff.contents import Contents
from registry.diff.coreml_contents import coreml_contents
from registry.diff.gguf_contents import gguf_contents
from registry.diff.onnx_contents import onnx_contents
from registry.formats.forwards import Forwards, Span
from targets.errors import BundleError
from tests.support.coreml_files import blob_file, coreml_constants, coreml_model
from tests.support.gguf_files import write_gguf


def digest(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def manifest_of(folder: Path) -> Manifest:
    return make_bundle(folder, {}).manifest


def opened(folder: Path) -> Any:
    return lambda entry: (folder / entry.path).open("rb")


def gguf_of(folder: Path) -> Contents:
    return gguf_contents(manifest_of(folder), opened(folder))


def onnx_of(folder: Path) -> Contents:
    return onnx_contents(manifest_of(folder), opened(folder))


def test_a_gguf_file_is_read_as_its_own_library_reads_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "odd": rng.random((3, 5), np.float32),  # 60 bytes: padding follows
        "half": rng.random((4, 32)).astype(np.float16),
        "one": np.array([7.0], np.float32),
    }
    write_gguf(tmp_path / "b" / "model.gguf", arrays, general_name="x" * 200)
    found = gguf_of(tmp_path / "b")
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "b" / "model.gguf").tensors}
    assert found.tensors.keys() == theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        mine = found.tensors[name]
        assert (mine.storage, mine.bytes) == (theirs[name].tensor_type.name, theirs[name].n_bytes)
        assert mine.shape == array.shape
        assert mine.digest == digest(array.tobytes())
    assert found.keys["general.architecture"] == "phi3"
    assert found.keys["general.flag"] == "True"
    assert found.keys["general.name"].startswith("200 letters, sha256:")
    assert found.keys["tokenizer.ggml.tokens"].startswith("3 strings, sha256:")
    assert found.keys["tokenizer.ggml.scores"].startswith("2 values, sha256:")


def test_a_type_that_is_not_listed_reaches_to_the_next_tensor(tmp_path: Path) -> None:
    arrays = {"a": np.arange(64, dtype=np.int32), "b": np.arange(32, dtype=np.int64)}
    write_gguf(tmp_path / "b" / "model.gguf", arrays)
    found = gguf_of(tmp_path / "b").tensors
    assert {name: tensor.storage for name, tensor in found.items()} == {"a": "ggml type 26", "b": "ggml type 27"}
    assert {name: tensor.digest for name, tensor in found.items()} == {
        name: digest(array.tobytes()) for name, array in arrays.items()
    }


def test_onnx_initializers_inside_and_outside(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    outside = np.arange(40, dtype=np.float16)
    (folder / "model.onnx.data").write_bytes(b"\0" * 64 + outside.tobytes())

    def elsewhere(name: str, shape: list[int]) -> Any:
        tensor = onnx.TensorProto(name=name, dims=shape, data_type=onnx.TensorProto.FLOAT16)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "model.onnx.data"), ("offset", "64"), ("length", "80")):
            tensor.external_data.add(key=key, value=value)
        return tensor

    inside = onnx.numpy_helper.from_array(np.arange(6, dtype=np.int64).reshape(2, 3), "inside")
    typed = onnx.helper.make_tensor("typed", onnx.TensorProto.FLOAT, [2], [1.0, -2.0])
    tied = [elsewhere("table", [8, 5]), elsewhere("product", [5, 8])]

    def write(nodes: list[Any]) -> Contents:
        graph = onnx.helper.make_graph(nodes, "g", [], [], [inside, typed, *tied])
        (folder / "model.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
        return onnx_of(folder)

    found = write([])
    assert set(found.tensors) == {"inside", "typed", "table", "product"}
    assert found.tensors["inside"].shape == (2, 3)
    assert found.tensors["inside"].storage == "int64"
    assert found.tensors["inside"].digest == digest(np.arange(6, dtype=np.int64).tobytes())
    assert found.tensors["table"].digest == found.tensors["product"].digest == digest(outside.tobytes())
    assert (found.tensors["table"].shape, found.tensors["product"].shape) == ((8, 5), (5, 8))
    assert found.tensors["table"].storage == "float16"
    other = write([onnx.helper.make_node("Relu", ["a"], ["b"])])
    assert other.tensors == found.tensors
    assert other.keys != found.keys


def test_data_missing_from_the_bundle_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    tensor = onnx.TensorProto(name="w", dims=[1], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", "../../etc/passwd"), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor]))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="missing from the bundle"):
        onnx_of(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    write_gguf(folder / "model.gguf", {"a": np.ones((2, 32), np.float32), "b": np.ones(32, np.float16)})
    initializers = [onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "a")]
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], initializers))
    return {
        "model.gguf": (folder / "model.gguf").read_bytes(),
        "model.onnx": model.SerializeToString(),
        "model.mlmodel": coreml_model({"a": (64, [2, 3])}),
    }


def read(name: str, raw: bytes) -> Contents:
    contents = {name: raw} | ({"weights/weight.bin": blob_file()} if name == "model.mlmodel" else {})
    files = [FileEntry(path=path, bytes=len(content), sha256="0" * 64) for path, content in contents.items()]
    read_contents = {"model.gguf": gguf_contents, "model.onnx": onnx_contents, "model.mlmodel": coreml_contents}[name]
    return read_contents(Manifest.model_construct(files=files), lambda entry: io.BytesIO(contents[entry.path]))


@given(data=st.data(), name=st.sampled_from(["model.gguf", "model.onnx", "model.mlmodel"]))
def test_damaged_files_are_reported_or_read_but_never_crash(
    whole: dict[str, bytes], data: st.DataObject, name: str
) -> None:
    raw = bytearray(whole[name])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for damaged in (bytes(raw), bytes(raw[:cut])):
        with contextlib.suppress(BundleError):
            read(name, damaged)


def test_an_alignment_that_is_no_number_is_reported(tmp_path: Path) -> None:
    write_gguf(tmp_path / "b" / "model.gguf", {}, general_alignment="wide")
    with pytest.raises(BundleError, match="not a GGUF file that can be read"):
        gguf_of(tmp_path / "b")


@given(cut=st.integers(0, 10_000))
def test_a_gguf_file_cut_short_is_refused(whole: dict[str, bytes], cut: int) -> None:
    raw = whole["model.gguf"]
    # Up to the last tensor's bytes; what pads the end may be missing.
    with pytest.raises(BundleError):
        read("model.gguf", raw[: cut % (len(raw) - 64)])


class Trickle(io.BytesIO):
    """Gives a few bytes at a time, as a socket may."""

    def read(self, count: int | None = -1, /) -> bytes:
        return super().read(min(7, len(self.getbuffer()) if count is None or count < 0 else count))


def test_streams_may_give_less_than_asked_for() -> None:
    raw = bytes(range(100))
    stream: BinaryIO = Trickle(raw)
    file = Forwards(stream, "x", 100)
    assert file.take(10) == raw[:10]
    spans = [Span(60, 40), Span(20, 30), Span(60, 40)]
    assert file.digests(spans) == {span: digest(raw[span.offset : span.offset + span.bytes]) for span in spans}


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([Span(0, 10), Span(5, 10)], "overlap"),
        ([Span(95, 6)], "6 bytes at byte 95 of 100"),
        ([Span(0, -1)], "-1 bytes at byte 0"),
    ],
)
def test_spans_that_overlap_or_run_over_the_end_are_refused(spans: list[Span], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        Forwards(io.BytesIO(bytes(100)), "x", 100).digests(spans)


def test_a_file_shorter_than_its_manifest_is_reported() -> None:
    with pytest.raises(BundleError, match="x ends at byte 50, the manifest says 100"):
        Forwards(io.BytesIO(bytes(50)), "x", 100).digest(100)


def coreml_of(model: bytes, weights: bytes, path: str = "weights/weight.bin") -> Contents:
    contents = {"model.mlmodel": model, path: weights}
    files = [FileEntry(path=path, bytes=len(content), sha256="0" * 64) for path, content in contents.items()]
    return coreml_contents(Manifest.model_construct(files=files), lambda entry: io.BytesIO(contents[entry.path]))


def test_constants_of_core_ml_are_those_of_its_own_reader(tiny_folder: Path, tmp_path: Path) -> None:
    from builders.build import build
    from builders.checkpoint import open_checkpoint
    from targets.recipes import recipe_named

    bundle = build(open_checkpoint(tiny_folder), recipe_named("coreml-int4"), tmp_path / "b")
    found = coreml_contents(bundle.manifest, opened(bundle.path)).tensors
    theirs = coreml_constants(bundle.path)
    assert {name: (tensor.shape, tensor.digest) for name, tensor in found.items()} == {
        name: (shape, digest(raw)) for name, (shape, raw) in theirs.items()
    }
    assert found["model_layers_0_mlp_down_proj.data"].storage == "uint4"
    assert found["model_layers_0_mlp_down_proj.scale"].storage == "float16"
    assert found["model_norm"].storage == "float32"


def test_functions_share_a_constant_or_have_their_own() -> None:
    """One that both have at the same place is one; another one of the same name has its function's name, too."""
    both = coreml_model({"a": (64, [3])}, prompt={"a": (64, [3])})
    assert set(coreml_of(both, blob_file()).tensors) == {"a"}
    own = coreml_model({"a": (64, [3])}, prompt={"a": (192, [3])})
    assert set(coreml_of(own, blob_file(b"abcdef", b"ghijkl")).tensors) == {"a", "prompt/a"}


def test_only_what_is_around_constants_makes_the_rest_another_one() -> None:
    first = coreml_of(coreml_model({"a": (64, [3])}), blob_file())
    moved = coreml_of(coreml_model({"a": (192, [3])}), blob_file(b"abcdef", b"abcdef"))
    described = coreml_of(coreml_model({"a": (64, [3])}, author="someone"), blob_file())
    assert first == moved
    assert described.tensors == first.tensors
    assert described.keys != first.keys


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        (coreml_model({"a": (128, [3])}), blob_file(), "no constant is described at byte 128"),
        (coreml_model({"a": (64, [3]), "b": (96, [3])}), blob_file(), "two constants overlap at byte 96"),
        (coreml_model({"a": (1 << 40, [3])}), blob_file(), "it names"),
        (coreml_model({"a": (64, [3])}), blob_file()[:130], "it names 6 bytes at byte 128 of 130"),
        (b"\xff\xff", b"", "not a Core ML model that can be read"),
    ],
)
def test_damaged_programs_are_reported(model: bytes, weights: bytes, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        coreml_of(model, weights)


def test_constants_in_a_file_that_is_not_there_are_reported() -> None:
    with pytest.raises(BundleError, match=r"weights/weight.bin, which is missing"):
        coreml_of(coreml_model({"a": (64, [3])}), blob_file(), "other.bin")


@pytest.mark.parametrize("recipe", ["gguf-q8_0", "onnx-int4", "coreml-int4", "coreml-palettized4"])
def test_bundles_of_ours_are_read(tiny_folder: Path, tmp_path: Path, recipe: str) -> None:
    """Every weight class that the manifest counts is there, and the sizes agree."""
    from builders.build import build_each
    from builders.checkpoint import open_checkpoint
    from builders.conversion import BuildRequest
    from targets.recipes import recipe_named

    request = BuildRequest.from_checkpoint(open_checkpoint(tiny_folder), recipe_named(recipe), 64)
    assert not any(build_each({tmp_path / "b": request}).values())
    bundle = open_bundle(tmp_path / "b")
    contents = {"gguf": gguf_contents, "onnx": onnx_contents, "coreml": coreml_contents}[recipe.partition("-")[0]]
    found = contents(bundle.manifest, opened(bundle.path))
    weights = bundle.manifest.recipe.weights
    assert len(found.tensors) >= sum(weight.tensors for weight in weights)
    assert sum(tensor.bytes for tensor in found.tensors.values()) >= sum(weight.bytes for weight in weights)


class Endless(io.RawIOBase):
    """A file that goes on with zeros after its beginning. Counts what is read of it."""

    def __init__(self, beginning: bytes) -> None:
        self.beginning, self.count = beginning, 0

    def read(self, count: int = -1, /) -> bytes:
        self.count += count
        piece, self.beginning = self.beginning[:count], self.beginning[count:]
        return piece or bytes(count)


def le(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers)


def tag(kind: int) -> bytes:
    return kind.to_bytes(4, "little")


GGUF_HEAD = b"GGUF" + (3).to_bytes(4, "little")
LONG_KEYS = {
    "a key's name": GGUF_HEAD + le(0, 1) + le(1 << 31),
    "a key's text": GGUF_HEAD + le(0, 1) + le(1) + b"k" + (8).to_bytes(4, "little") + le(1_500_000_000),
    "a text in an array": GGUF_HEAD + le(0, 1) + le(1) + b"k" + tag(9) + tag(8) + le(1) + le(1_500_000_000),
    "texts in an array": GGUF_HEAD + le(0, 1) + le(1) + b"k" + tag(9) + tag(8) + le(1 << 40),
    "a tensor's name": GGUF_HEAD + le(1, 0) + le(1 << 31),
    "keys": GGUF_HEAD + le(0, 1 << 40),
    "tensors": GGUF_HEAD + le(1 << 40, 0),
}


@pytest.mark.parametrize("name", LONG_KEYS)
def test_a_gguf_file_can_not_fill_the_memory(name: str) -> None:
    entry = FileEntry(path="model.gguf", bytes=4 << 30, sha256="0" * 64)
    stream = Endless(LONG_KEYS[name])
    with pytest.raises(BundleError, match="at most"):
        gguf_contents(Manifest.model_construct(files=[entry]), lambda _: stream)  # type: ignore[arg-type,return-value]
    assert stream.count < 1000


def field(number: int, content: bytes) -> bytes:
    return bytes(onnx_varint(number << 3 | 2) + onnx_varint(len(content))) + content


def onnx_varint(value: int) -> bytearray:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return out + bytes([value])


ONNX_FIELDS = {
    "a field of the model": lambda size: field(14, bytes(size)),
    "a field of the graph": lambda size: field(7, field(1, bytes(size))),
    "raw data": lambda size: field(7, field(5, field(9, bytes(size)))),
    "numbers by type": lambda size: field(7, field(5, b"\x20\x01" * (size // 2))),
}


@pytest.mark.parametrize("name", ONNX_FIELDS)
def test_an_onnx_graph_is_held_in_memory_once(name: str) -> None:
    raw = ONNX_FIELDS[name](1 << 20 if name == "numbers by type" else 4 << 20)  # the numbers take their time
    tracemalloc.start()
    read("model.onnx", raw)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * len(raw) + (1 << 20)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (field(7, field(5, field(1, b"\1" * 1000))), "dimensions"),
        (field(7, field(5, b"\x08\x01" * 1000)), "dimensions"),
        (field(7, field(5, field(8, bytes(1 << 17)))), "a long text"),
        (field(7, field(5, b"") * 70_000), "more than 65536 initializers"),
    ],
)
def test_an_onnx_graph_beyond_any_models_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        read("model.onnx", raw)
