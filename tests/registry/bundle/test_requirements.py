"""What a bundle needs is read from its files, and a manifest that says less is refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from devtools.bundles import make_bundle
from phipack.api.delivery import verify
from registry.bundle.folder import Bundle, seal
from registry.bundle.manifest import FileEntry, Manifest
from registry.bundle.requirements import check_requirements, required_by
from targets.errors import BundleError
from targets.runtimes.table import requires
from tests.support.gguf_files import write_gguf


def features(folder: Path) -> set[str]:
    return set(required_by(folder, make_bundle(folder, {}).manifest.files).features)


def fused(kind: str, inputs: tuple[str, ...] = ("x",), domain: str = "com.microsoft", **attributes: Any) -> Any:
    return helper.make_node(kind, list(inputs), ["y"], domain=domain, **attributes)


def model_of(*nodes: Any, functions: tuple[Any, ...] = ()) -> bytes:
    """A graph with these nodes; the last one stands in a branch of an If."""
    *outside, inside = nodes
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    branch = helper.make_graph([inside], "branch", [], [value])
    chosen = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph([*outside, chosen], "graph", [value], [value])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, ir_version=10, opset_imports=opsets, functions=list(functions))
    return bytes(made.SerializeToString())


def write(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


def test_operators_are_read_with_what_each_use_needs(tmp_path: Path) -> None:
    attention = ("q", "", "", "k", "v", "last", "total", "cos", "sin")
    own = helper.make_function(
        "mine", "Own", ["x"], ["y"], [fused("Inner", domain="mine.inner")], [helper.make_opsetid("mine.inner", 1)]
    )
    nodes = (
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("SimplifiedLayerNormalization", ["x", "g"], ["y"]),
        fused("GroupQueryAttention", attention, do_rotary=1, local_window_size=-1),
        fused("GroupQueryAttention", (*attention, "ids"), do_rotary=0, local_window_size=64),
        fused("MatMulNBits"),
        fused("GatherBlockQuantized", bits=8),
        fused("MatMulNBits", bits=2),  # in a branch
    )
    write(tmp_path / "b", "model.onnx", model_of(*nodes, functions=(own,)))
    operators = {one.removeprefix("onnx/operator/") for one in features(tmp_path / "b") if "operator" in one}
    assert operators == {
        *("SimplifiedLayerNormalization", "mine.inner.Inner"),
        *("MatMulNBits", "MatMulNBits/bits=4", "MatMulNBits/bits=2"),
        *("GatherBlockQuantized", "GatherBlockQuantized/bits=8", "GroupQueryAttention"),
        *("GroupQueryAttention/rotary", "GroupQueryAttention/window", "GroupQueryAttention/positions"),
    }
    assert features(tmp_path / "b") >= {"onnx/opset/21", "onnx/ir/10"}


def test_a_runtime_that_drives_the_graph_is_asked_for_its_model_type(tmp_path: Path) -> None:
    folder = write(tmp_path / "b", "genai_config.json", json.dumps({"model": {"type": "phi3"}}).encode())
    write(folder, "model.onnx", model_of(fused("RotaryEmbedding")))
    assert features(folder) >= {"genai/model/phi3", "genai/longrope/phi3"}
    (folder / "genai_config.json").write_text('{"model": {}}')
    with pytest.raises(BundleError, match=r"genai_config\.json: no model type can be read"):
        features(folder)


@pytest.mark.parametrize("words", ["gpt2", "llama"])
def test_a_gguf_file_is_read_as_its_own_library_wrote_it(tmp_path: Path, words: str) -> None:
    from gguf import GGUFWriter

    (tmp_path / "b").mkdir()
    writer = GGUFWriter(tmp_path / "b" / "model.gguf", "phi3")
    writer.add_tokenizer_model(words)
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_rope_dimension_count(12)
    writer.add_sliding_window(0)
    for name in ("rope_factors_long.weight", "token_embd.weight"):
        writer.add_tensor(name, np.zeros((2, 32), np.float16))
    for write_part in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file"):
        getattr(writer, write_part)()
    writer.close()
    found = features(tmp_path / "b")
    assert found - {"gguf/pre/gpt-4o"} == {
        *("gguf/version/3", "gguf/architecture/phi3", "gguf/tensor/F16", "gguf/no_window/phi3"),
        *("gguf/tied/phi3", "gguf/rope_factors/phi3", "gguf/partial_rotary/phi3"),
    }
    assert ("gguf/pre/gpt-4o" in found) == (words == "gpt2")  # SentencePiece's text is not split into words


@pytest.mark.parametrize("stated", ["twelve", float("inf")])
def test_a_head_size_that_is_no_whole_number_is_none(tmp_path: Path, stated: str | float) -> None:
    from gguf import GGUFWriter

    (tmp_path / "b").mkdir()
    writer = GGUFWriter(tmp_path / "b" / "model.gguf", "phi3")
    (writer.add_string if isinstance(stated, str) else writer.add_float32)("phi3.attention.key_length", stated)
    writer.add_rope_dimension_count(12)
    writer.add_tensor("rope_factors_long.weight", np.zeros((2, 32), np.float16))
    for write_part in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file"):
        getattr(writer, write_part)()
    writer.close()
    assert "gguf/partial_rotary/phi3" in features(tmp_path / "b")


def test_a_core_ml_model_states_its_specification(tmp_path: Path) -> None:
    """Real ones, which coremltools wrote, are read in tests/builders/test_requirements.py."""
    updatable, program = b"\x50\x01", b"\xb2\x1f\x02\x08\x01"  # fields 10 and 502
    write(tmp_path / "b", "model.mlmodel", b"\x08\x09" + updatable + program)
    assert features(tmp_path / "b") == {"coreml/specification/9"}
    write(tmp_path / "b", "model.mlmodel", updatable + program)
    with pytest.raises(BundleError, match="states no specification version"):
        features(tmp_path / "b")


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.booleans())
@pytest.mark.parametrize("name", ["model.onnx", "model.gguf", "model.mlmodel"])
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, name: str, at: int, byte: int, cut: bool) -> None:
    folder = tmp_path / "b"
    if not (tmp_path / "whole").exists():
        write_gguf(tmp_path / "whole", {"a": np.zeros((2, 2), np.float32)})
        if not name.endswith(".gguf"):
            (tmp_path / "whole").write_bytes(model_of(fused("MatMulNBits", bits=8), fused("MatMulNBits")))
    content = bytearray((tmp_path / "whole").read_bytes())
    content[at % len(content)] = byte
    content = content[: at % len(content)] if cut else content
    write(folder, name, bytes(content))
    entry = FileEntry(path=name, bytes=len(content), sha256="0" * 64)
    with contextlib.suppress(BundleError):
        assert required_by(folder, [entry]).features


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    write(tmp_path / "b", "model.onnx", model_of(fused("MatMulNBits", bits=8)))
    made = make_bundle(tmp_path / "b", {})
    return sealed(made, list(required_by(made.path, made.manifest.files).features))


def sealed(bundle: Bundle, listed: list[str], **runtimes: Any) -> Bundle:
    needed = requires(listed).model_copy(update=runtimes)
    return seal(bundle.path, bundle.manifest.model_copy(update={"requires": needed}))


def test_an_entry_that_is_right_passes_and_is_canonical(bundle: Bundle) -> None:
    assert verify(bundle).manifest.requires is not None
    raw = (bundle.path / "manifest.json").read_bytes()
    assert Manifest.parse(raw, source="x").to_bytes() == raw
    assert b"null" not in json.dumps(json.loads(raw)["requires"]).encode()


def test_an_entry_that_says_less_or_more_than_the_files_is_refused(bundle: Bundle) -> None:
    assert bundle.manifest.requires is not None
    listed = list(bundle.manifest.requires.features)
    eight = "onnx/operator/MatMulNBits/bits=8"
    for changed, problem in (
        (sealed(bundle, [one for one in listed if one != eight]), f"does not list {eight}, which its files use"),
        (sealed(bundle, [*listed, "onnx/operator/Other"]), "lists onnx/operator/Other, which its files don't use"),
        (sealed(bundle, listed, runtimes=()), "asks for no runtime, and its files need onnxruntime 1.23.0 or later"),
    ):
        with pytest.raises(BundleError) as caught:
            verify(changed)
        assert problem in caught.value.problem


def test_a_manifest_of_an_older_phipack_stays_readable(bundle: Bundle) -> None:
    older = seal(bundle.path, bundle.manifest.model_copy(update={"requires": None}))
    raw = (older.path / "manifest.json").read_bytes()
    assert b"requires" not in raw
    assert Manifest.parse(raw, source="x").digest == older.digest
    check_requirements(older)


def test_the_library_s_own_reader_lists_the_same_operators(tmp_path: Path) -> None:
    content = model_of(fused("MatMulNBits", bits=4), fused("QuickGelu"))
    write(tmp_path / "b", "model.onnx", content)
    graph = onnx.load_from_string(content).graph
    theirs = {node.op_type for node in graph.node if node.domain}
    theirs |= {node.op_type for one in graph.node for item in one.attribute for node in item.g.node}
    found = {one.split("/")[2] for one in features(tmp_path / "b") if one.startswith("onnx/operator")}
    assert found == theirs
