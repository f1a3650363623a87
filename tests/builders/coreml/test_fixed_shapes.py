"""Packages in fixed shapes, evaluated, against the float32 reference: chunks, the context's end, longrope's edge.

Their weights are float16 here, so that a fault of the program is not hidden by rounded weights.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.coreml.interface import MAIN, PROMPT
from builders.coreml.package import PACKAGE_NAME
from builders.reference import FloatReference
from builders.runtime.coreml import calls as coreml_calls
from builders.runtime.coreml.calls import Call, layout_of
from builders.runtime.coreml.evaluate import Evaluator
from builders.runtime.coreml.operations import MATHS, attended_part
from builders.runtime.coreml.session import CoremlSession, open_session
from builders.runtime.session import Session
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError
from targets.recipes import recipe_named
from tests.support.checkpoints import write_tiny
from tests.support.parity import LIKE_PHI_4_MINI, some_tokens

FIXED = replace(recipe_named("coreml-fp16"), fixed_shapes=True)
TOLERANCE = 0.03
CHUNK = 64
CONTEXT = 150  # two chunks, and places that only single tokens can take
EDGE = 80


def fixed_bundle(folder: Path, *, context: int = CONTEXT, **changes: Any) -> tuple[FloatReference, Bundle]:
    checkpoint = open_checkpoint(write_tiny(folder / "checkpoint", **{"dtype": "F16", **changes}))
    return FloatReference(checkpoint), build(checkpoint, FIXED, folder / "bundle", context_length=context)


def truth(reference: FloatReference, tokens: np.ndarray) -> np.ndarray:
    return reference.logits(reference.hidden(tokens[None])[0])


def gap(found: np.ndarray, expected: np.ndarray) -> float:
    shown = np.isfinite(expected[0])
    return float(np.abs(found[:, shown] - expected[:, shown]).max())


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> tuple[FloatReference, Bundle]:
    """Grouped heads, and a sliding window that is shorter than a chunk and crosses its borders."""
    return fixed_bundle(tmp_path_factory.mktemp("windowed"), window=8)


@pytest.fixture(scope="module")
def edged(tmp_path_factory: pytest.TempPathFactory) -> tuple[FloatReference, Bundle]:
    """Longrope, whose edge is inside the second chunk."""
    return fixed_bundle(tmp_path_factory.mktemp("edged"), original_context=EDGE)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 128, 129, CONTEXT - 1, CONTEXT])
@pytest.mark.parametrize("kind", ["windowed", "edged"])
def test_a_prompt_of_any_length_is_read_as_the_reference_reads_it(
    request: pytest.FixtureRequest, kind: str, length: int
) -> None:
    reference, bundle = request.getfixturevalue(kind)
    tokens = some_tokens(length)
    with open_session(bundle) as session:
        logits = session.score(tokens)
        assert logits.shape == (length, reference.checkpoint.architecture.vocabulary_size)
        assert gap(logits, truth(reference, tokens)) < TOLERANCE
        assert np.array_equal(session.prefill(tokens), logits[-1])


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(LIKE_PHI_4_MINI, id="like Phi-4-mini"),
        pytest.param({"kv_heads": 4, "family": "llama"}, id="llama, as many key heads"),
        pytest.param({"family": "phi3small"}, id="small, sparse"),
        pytest.param({"family": "phi3small", "original_context": EDGE}, id="small, past longrope's edge"),
    ],
)
def test_other_families_are_read_alike(tmp_path: Path, changes: dict[str, Any]) -> None:
    reference, bundle = fixed_bundle(tmp_path, **changes)
    tokens = some_tokens(140)
    expected = truth(reference, tokens)
    with open_session(bundle) as session:
        assert gap(session.score(tokens), expected) < TOLERANCE
        session.prefill(tokens[:100])
        assert gap(session.extend(tokens[100:])[None], expected[-1:]) < TOLERANCE


def test_the_context_is_filled_to_its_last_token(windowed: tuple[FloatReference, Bundle]) -> None:
    """Steps, chunks and single tokens, up to the end, in the order in which a chat would come to it."""
    reference, bundle = windowed
    tokens = some_tokens(CONTEXT)
    expected = truth(reference, tokens)
    with open_session(bundle) as session:
        place = 0
        for count in (5, 1, 30, 50, 20, 41, 2):  # the fifth does not leave room for a chunk
            logits = session.extend(tokens[place : place + count]) if place else session.prefill(tokens[:count])
            place += count
            assert gap(logits[None], expected[place - 1 : place]) < TOLERANCE, f"{place} tokens"
        assert gap(session.step(int(tokens[-1]))[None], expected[-1:]) < TOLERANCE
        with pytest.raises(MeasurementError, match=f"takes 1 to {CONTEXT}"):
            session.step(1)
        assert gap(session.score(tokens), expected) < TOLERANCE  # nothing of before is seen


def test_a_context_shorter_than_a_chunk_has_a_chunk_of_its_length(tmp_path: Path) -> None:
    reference, bundle = fixed_bundle(tmp_path, context=40)
    tokens = some_tokens(40)
    with open_session(bundle) as session:
        assert gap(session.score(tokens), truth(reference, tokens)) < TOLERANCE
        session.prefill(tokens[:39])
        assert gap(session.step(int(tokens[39]))[None], truth(reference, tokens)[-1:]) < TOLERANCE


def test_a_sequence_that_grows_past_longropes_edge_is_read_again(edged: tuple[FloatReference, Bundle]) -> None:
    reference, bundle = edged
    tokens = some_tokens(EDGE + 5)
    with open_session(bundle) as session:
        session.prefill(tokens[: EDGE - 2])
        for count in range(EDGE - 1, len(tokens) + 1):
            logits = session.step(int(tokens[count - 1]))
            assert gap(logits[None], truth(reference, tokens[:count])[-1:]) < TOLERANCE, f"{count} tokens"


def test_factors_of_the_wrong_side_are_felt(edged: tuple[FloatReference, Bundle]) -> None:
    """What the tolerance must tell apart."""
    reference, bundle = edged
    tokens = some_tokens(EDGE + 5)
    with open_session(bundle) as session:
        short = session._extended(tokens, is_long=False)
    assert gap(short, truth(reference, tokens)) > 3 * TOLERANCE


def test_the_end_of_a_long_sequence_is_read_in_parts(edged: tuple[FloatReference, Bundle]) -> None:
    reference, bundle = edged
    tokens = some_tokens(EDGE + 20)
    with open_session(bundle) as session:
        found = np.concatenate(list(session.score_end(tokens, EDGE)))
    assert gap(found, truth(reference, tokens)[EDGE:]) < TOLERANCE


def test_prompts_and_windows_in_lockstep_get_the_numbers_of_each_alone(
    windowed: tuple[FloatReference, Bundle],
) -> None:
    tokens = some_tokens(CONTEXT)
    windows = [tokens[:70], tokens[10:150], tokens[:CONTEXT], tokens[3:4]]  # the third ends in single tokens
    prompts = [tokens[:140], tokens[5:70], tokens[:2]]
    with open_session(windowed[1]) as session:
        alone = [session.score(window) for window in windows]
        for found, expected in zip(session.score_each(windows), alone, strict=True):
            assert np.array_equal(found, expected)
        expected_ids = [found.tolist() for found in Session.continue_each(session, prompts, 9)]
        assert [found.tolist() for found in session.continue_each(prompts, 9)] == expected_ids


def test_chunks_in_lockstep_give_what_chunks_one_after_the_other_give(
    windowed: tuple[FloatReference, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Core ML makes one call after the other. The evaluator reads its matrices once for all chunks of a prompt."""
    tokens = some_tokens(CONTEXT)
    with open_session(windowed[1]) as session:
        assert all(engine.updates_in_place for engine in session._engines.values())
        together = session.score(tokens)
        monkeypatch.setattr(Evaluator, "updates_in_place", property(lambda _: False))
        assert np.array_equal(session.score(tokens), together)


def test_what_fills_up_a_chunk_changes_nothing(
    windowed: tuple[FloatReference, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = some_tokens(90)
    found = []
    for padding in (0, 299):
        monkeypatch.setattr(coreml_calls, "PADDING_ID", padding)
        with open_session(windowed[1]) as session:
            session.prefill(tokens[:70])
            found.append(np.stack([session.step(int(token)) for token in tokens[70:]]))
    assert np.array_equal(*found)


def planned(calls: Sequence[Call]) -> list[tuple[str, int, int]]:
    for call in calls:
        assert call.inputs["inputIds"].shape == (1, CHUNK if call.function == PROMPT else 1)
        assert {name: value.dtype for name, value in call.inputs.items()} == dict.fromkeys(call.inputs, np.int32)
    return [(call.function, int(call.inputs["position"][0]), call.count) for call in calls]


def test_tokens_become_chunks_where_these_have_room() -> None:
    layout = layout_of({"phipack.prompt_chunk": "64"}, 200)
    assert planned(layout.calls(some_tokens(1), 0, False)) == [(MAIN, 0, 1)]
    assert planned(layout.calls(some_tokens(2), 7, False)) == [(PROMPT, 7, 2)]
    assert planned(layout.calls(some_tokens(129), 0, False)) == [(PROMPT, 0, 64), (PROMPT, 64, 64), (MAIN, 128, 1)]
    assert planned(layout.calls(some_tokens(64), 136, False)) == [(PROMPT, 136, 64)]
    assert planned(layout.calls(some_tokens(3), 137, False)) == [(MAIN, 137, 1), (MAIN, 138, 1), (MAIN, 139, 1)]
    assert "longFactors" not in layout.calls(some_tokens(1), 0, False)[0].inputs


def test_the_caller_says_which_factors_hold() -> None:
    layout = layout_of({"phipack.prompt_chunk": "64", "phipack.longrope_edge": "80"}, 200)
    assert [layout.is_long(length) for length in (80, 81)] == [False, True]
    for is_long in (False, True):
        found = [int(call.inputs["longFactors"][0]) for call in layout.calls(some_tokens(70), 0, is_long)]
        assert found == [is_long, is_long]


@pytest.mark.parametrize("changes", [{}, {"original_context": EDGE}, {"family": "phi3small"}])
def test_every_dimension_of_both_functions_is_a_constant(tmp_path: Path, changes: dict[str, Any]) -> None:
    import coremltools as ct

    _, bundle = fixed_bundle(tmp_path, **changes)
    package = str(bundle.file(PACKAGE_NAME))
    specification = ct.models.MLModel(package, skip_model_load=True).get_spec()
    names = ["inputIds", "position", *(["longFactors"] if "original_context" in changes else [])]
    assert specification.description.defaultFunctionName == MAIN
    assert not specification.description.input  # each function has its own
    assert {one.name for one in specification.description.functions} == set(specification.mlProgram.functions)
    for described, length in zip(specification.description.functions, (1, CHUNK), strict=True):
        assert ct.models.MLModel(package, skip_model_load=True, function_name=described.name)
        arrays = {one.name: one.type.multiArrayType for one in (*described.input, *described.output)}
        assert list(arrays) == [*names, "logits"]
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        assert shapes["inputIds"] == (1, length)
        assert shapes["logits"][:2] == (1, length)
        assert not any(array.WhichOneof("ShapeFlexibility") for array in arrays.values())
        assert {tuple(one.type.stateType.arrayType.shape) for one in described.state} == {(2, 1, 2, CONTEXT, 16)}
        function = specification.mlProgram.functions[described.name]
        assert [one.name for one in function.inputs] == [*names, "keyCache", "valueCache"]
        types = [one.type for operation in _operations(function) for one in operation.outputs]
        assert {size.WhichOneof("dimension") for one in types for size in one.tensorType.dimensions} == {"constant"}, (
            described.name
        )


def _operations(function: Any) -> Any:
    return function.block_specializations[function.opset].operations


def test_the_weights_are_stored_once_for_both_functions(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint"))
    sizes = {}
    for fixed in (False, True):
        recipe = replace(recipe_named("coreml-palettized4"), fixed_shapes=fixed)
        bundle = build(checkpoint, recipe, tmp_path / str(fixed), context_length=CONTEXT)
        sizes[fixed] = (bundle.file(PACKAGE_NAME) / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    assert abs(sizes[True] - sizes[False]) < 4096


def test_palettized_packages_in_ranges_that_were_built_before_still_run(tmp_path: Path) -> None:
    """A session looks at the package, not at the recipe's name."""
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", original_context=EDGE))
    tokens = some_tokens(EDGE + 10)
    found = []
    for fixed in (False, True):
        recipe = replace(recipe_named("coreml-palettized4"), fixed_shapes=fixed)
        bundle = build(checkpoint, recipe, tmp_path / str(fixed), context_length=CONTEXT)
        assert bundle.manifest.recipe.name == "coreml-palettized4"
        with open_session(bundle) as session:
            assert isinstance(session, CoremlSession)
            assert session._layout.is_fixed == fixed
            found.append(session.score(tokens))
            found.append(session.prefill(tokens[:70])[None])
            found.append(session.extend(tokens[70:])[None])
    for ranged, fixed_shape in zip(found[:3], found[3:], strict=True):
        assert np.abs(ranged - fixed_shape).max() < TOLERANCE


def test_a_package_without_its_second_function_is_refused(tmp_path: Path) -> None:
    import coremltools as ct

    _, bundle = fixed_bundle(tmp_path)
    (path,) = bundle.path.rglob("*.mlmodel")
    specification = ct.proto.Model_pb2.Model()
    specification.ParseFromString(path.read_bytes())
    del specification.mlProgram.functions[PROMPT]
    path.write_bytes(specification.SerializeToString())
    with pytest.raises(MeasurementError, match="prompt function"):
        open_session(bundle)


@pytest.mark.parametrize(
    ("name", "added"), [("is_future", -1), ("is_future", 1), ("is_behind_window", 1), ("is_behind_window", -1)]
)
def test_a_mask_that_is_wrong_by_one_is_felt(
    windowed: tuple[FloatReference, Bundle], tmp_path: Path, name: str, added: int
) -> None:
    """In both functions: in a chunk, across its end, and in the single tokens that follow."""
    import coremltools as ct

    reference, bundle = windowed
    tokens = some_tokens(CONTEXT)
    expected = truth(reference, tokens)
    copied = replace(bundle, path=Path(shutil.copytree(bundle.path, tmp_path / "copied")))
    (path,) = copied.path.rglob("*.mlmodel")
    specification = ct.proto.Model_pb2.Model()
    specification.ParseFromString(path.read_bytes())
    for function in specification.mlProgram.functions.values():
        by_output = {output.name: one for one in _operations(function) for output in one.outputs}
        bound = by_output[by_output[name].inputs["y"].arguments[0].name].attributes["val"]
        bound.immediateValue.tensor.ints.values[0] += added
    path.write_bytes(specification.SerializeToString())
    with open_session(copied) as session:
        found = session.score(tokens)
    for rows in (slice(10, CHUNK), slice(CHUNK, 2 * CHUNK), slice(2 * CHUNK, CONTEXT)):
        assert gap(found[rows], expected[rows]) > 3 * TOLERANCE


def test_keys_that_are_hidden_from_all_queries_are_left_out() -> None:
    values = torch.arange(24.0).reshape(1, 1, 6, 4)
    mask = torch.tensor([[[[0.0, -30000, 0, -30000, -30000, -30000], [0, 0, -30000, -30000, -torch.inf, -30000]]]])
    arguments = {"query": values[..., :2, :], "key": values, "value": values, "attn_mask": mask}
    part = attended_part(arguments)
    assert [part[name].shape[-2] for name in ("query", "key", "value")] == [2, 3, 3]
    assert torch.equal(MATHS["scaled_dot_product_attention"](part), MATHS["scaled_dot_product_attention"](arguments))
    mask[0, 0, 0, 4] = torch.nan  # a fault must not be hidden
    assert attended_part(arguments)["key"].shape[-2] == 5
    for unknown in (
        torch.ones(1, 1, 2, 6, dtype=torch.bool),
        torch.zeros(1, 1, 2, 1),
        None,
        torch.full_like(mask, -torch.inf),
    ):
        assert attended_part(arguments | {"attn_mask": unknown})["key"].shape[-2] == 6
