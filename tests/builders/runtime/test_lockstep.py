"""Core ML programs evaluated for several sequences together: the same numbers as one by one, from the same weights."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.coreml.package import PACKAGE_NAME
from builders.runtime.coreml import session as coreml_session
from builders.runtime.coreml.calls import call_inputs
from builders.runtime.coreml.evaluate import Evaluator
from builders.runtime.coreml.matrices import Matrix, matrix_of, packed_matrix
from builders.runtime.coreml.program_file import Blob, StoredProgram, Variable, read_program
from builders.runtime.coreml.session import CoremlSession, open_session
from builders.runtime.session import Session
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError
from tests.support.cases import cases
from tests.support.parity import LIKE_PHI_4_MINI, some_tokens, tiny_bundle

WINDOWS = [some_tokens(30)[start : start + 12] for start in (0, 5, 11)]
PROMPTS = [some_tokens(30)[start : start + 5] for start in (0, 7, 20)]


@pytest.fixture(scope="module")
def int4(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny Core ML bundle in int4."""
    return tiny_bundle(tmp_path_factory.mktemp("int4"), "coreml-int4")[1]


@pytest.mark.parametrize("recipe", ["coreml-fp16", "coreml-int4"])
@pytest.mark.parametrize(
    "changes", cases({"plain": {}, "window": {"window": 8}, "Phi-4-mini": LIKE_PHI_4_MINI}, ["window", "Phi-4-mini"])
)
def test_windows_in_lockstep_get_the_numbers_of_windows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(coreml_session, "LOCKSTEP_TOKENS", 24)  # two of three windows
    with open_session(tiny_bundle(tmp_path, recipe, **changes)[1]) as session:
        together = list(session.score_each(WINDOWS))
        for window, logits in zip(WINDOWS, together, strict=True):
            assert np.array_equal(logits, session.score(window))


def test_prompts_are_continued_in_lockstep_as_alone(int4: Bundle) -> None:
    with open_session(int4) as session:
        alone = [tokens.tolist() for tokens in Session.continue_each(session, PROMPTS, 6)]
        assert [tokens.tolist() for tokens in session.continue_each(PROMPTS, 6)] == alone
        known = [np.array(alone[0][:3]), np.array([alone[1][0], 1 + alone[1][1]]), np.array([1 + alone[2][0]])]
        found = [tokens.tolist() for tokens in session.continue_each(PROMPTS, 6, known=known)]
        assert found == [alone[0], alone[1][:2], alone[2][:1]]
        found = [tokens.tolist() for tokens in session.continue_each(PROMPTS, 6, stops={alone[0][0], alone[2][2]})]
        assert (found[0], found[2]) == (alone[0][:1], alone[2][: 1 + alone[2].index(alone[2][2])])


def test_prompts_that_pass_longropes_edge_are_read_again(tmp_path: Path) -> None:
    with open_session(tiny_bundle(tmp_path, "coreml-fp16", original_context=8)[1]) as session:
        alone = [tokens.tolist() for tokens in Session.continue_each(session, PROMPTS, 6)]
        assert [tokens.tolist() for tokens in session.continue_each(PROMPTS, 6)] == alone


def test_each_weight_is_read_once_for_all_windows(int4: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    package = int4.file(PACKAGE_NAME)
    evaluator = Evaluator(package)
    found = evaluator._matrix

    def counted(argument: Variable) -> Matrix:
        matrix = found(argument)

        def rows(first: int, last: int) -> Any:
            read.append((first, last))
            return matrix.rows(first, last)

        return replace(matrix, rows=rows)

    monkeypatch.setattr(evaluator, "_matrix", counted)
    products = []
    for count in (1, 3):
        read.clear()
        calls = [(call_inputs(window, 0), evaluator.make_state()) for window in WINDOWS[:count]]
        assert len(list(evaluator.predict_each(calls, at_once=count))) == count
        products.append([rows for rows in read if rows[1] - rows[0] > 1])  # the embedding is read by single rows
    assert products[0] == products[1]
    assert len(products[0]) > 5


def _program(bundle: Bundle) -> StoredProgram:
    return read_program(bundle.file(PACKAGE_NAME))


def test_packed_weights_are_what_coremltools_reader_and_plain_arithmetic_give(int4: Bundle) -> None:
    program = _program(int4)
    seen = 0
    for step in program.steps:
        if step.operator != "constexpr_blockwise_shift_scale":
            continue
        blobs = step.arguments
        data, scale, offset = (program.blobs.read(blobs[name]) for name in ("data", "scale", "offset"))
        block = data.shape[1] // scale.shape[1]
        codes = data.astype(np.float32) - np.repeat(offset.astype(np.float32), block, axis=1)
        expected = (codes * np.repeat(scale.astype(np.float32), block, axis=1)).astype(np.float16)
        matrix = packed_matrix(program.blobs, blobs)
        assert matrix is not None
        assert np.array_equal(matrix.whole(), expected.astype(np.float32))
        assert np.array_equal(matrix.rows(3, 7), expected[3:7].astype(np.float32))
        assert np.array_equal(matrix.taken(np.array([[1, -1], [1, 0]])), expected[[[1, -1], [1, 0]]].astype(np.float32))
        seen += 1
    assert seen > 5


def test_what_is_not_packed_so_is_left_to_plain_arithmetic(int4: Bundle) -> None:
    program = _program(int4)
    step = next(step for step in program.steps if step.operator == "constexpr_blockwise_shift_scale")
    blobs = step.arguments
    data = blobs["data"]
    assert isinstance(data, Blob)
    for changed in ({"data": np.zeros(3)}, {"data": replace(data, kind=31)}, {"data": replace(data, shape=(4, 4, 4))}):
        assert packed_matrix(program.blobs, blobs | changed) is None


def test_a_row_that_is_not_there_is_an_error() -> None:
    with pytest.raises(IndexError, match="row 5 of 4"):
        matrix_of(np.zeros((4, 2), np.float32)).taken(np.array([5]))


def test_a_caches_memory_is_taken_where_it_is_written(int4: Bundle) -> None:
    with open_session(int4) as session:
        session.prefill(PROMPTS[0])
        state = session._state["keyCache"]
        assert not state[..., len(PROMPTS[0]) :, :].any()
        assert state[..., : len(PROMPTS[0]), :].any()


def test_a_closed_session_says_so(int4: Bundle) -> None:
    session: CoremlSession = open_session(int4)
    session.close()
    for asked in (session.score_each(WINDOWS), session.continue_each(PROMPTS, 2)):
        with pytest.raises(MeasurementError, match="closed"):
            next(asked)


def test_a_prompt_that_leaves_no_room_is_refused(int4: Bundle) -> None:
    room = int4.manifest.model.context_length
    with open_session(int4) as session, pytest.raises(MeasurementError, match="the bundle takes 1 to"):
        list(session.continue_each([some_tokens(room)], 3))


FREED = """
import sys
import numpy as np
from pathlib import Path
from builders.runtime.coreml.calls import call_inputs
from builders.runtime.coreml.evaluate import Evaluator

def resident():
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096

evaluator, kept = Evaluator(Path(sys.argv[1])), []
before = resident()
for _ in range(24):
    large = [np.ones(2 << 20, np.float32) for _ in range(2)]
    kept.append([np.ones(8000, np.float32) for _ in range(40)])
    del large
print(resident() - before - 24 * 40 * 32_000)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="only Linux says what a process takes")
def test_large_arrays_are_returned_where_small_ones_stay(int4: Bundle) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FREED, str(int4.file(PACKAGE_NAME))], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 8 << 20
