"""A session in another process says what one in this process says, and outlives nothing: its death is an error here."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from builders.runtime.isolation import died, open_isolated, serve
from builders.runtime.sessions import open_session
from registry.bundle.folder import Bundle, open_bundle
from targets.errors import MeasurementError

TOKENS = np.arange(5, 25)


def test_it_gives_the_same_numbers(bundle: Bundle) -> None:
    with open_session(bundle) as here, open_isolated(bundle) as there:
        assert (there.runtime, there.is_own_runtime) == (here.runtime, here.is_own_runtime)
        np.testing.assert_array_equal(there.score(TOKENS), here.score(TOKENS))
        np.testing.assert_array_equal(there.prefill(TOKENS), here.prefill(TOKENS))
        np.testing.assert_array_equal(there.step(7), here.step(7))


def test_several_windows_and_prompts_are_answered_alike(bundle: Bundle) -> None:
    windows, prompts = [TOKENS, TOKENS[3:9]], [TOKENS[:4], TOKENS[5:6]]
    with open_session(bundle) as here, open_isolated(bundle) as there:
        for near, far in zip(here.score_each(windows), there.score_each(windows), strict=True):
            np.testing.assert_array_equal(near, far)
        near, far = (list(one.continue_each(prompts, 6)) for one in (here, there))
        assert [tokens.tolist() for tokens in near] == [tokens.tolist() for tokens in far]
        assert [len(tokens) for tokens in far] == [6, 6]
        assert near[0][0] == here.prefill(prompts[0]).argmax()
        other = [np.array([near[0][0], near[0][1] + 1]), near[1][:2]]  # the second token differs; nothing differs
        assert [len(tokens) for tokens in there.continue_each(prompts, 6, known=other)] == [2, 6]
        stops = {int(near[0][0])}
        assert [len(tokens) for tokens in there.continue_each(prompts[:1], 6, stops=stops)] == [1]


def test_answers_that_nobody_took_are_not_taken_for_others(bundle: Bundle) -> None:
    with open_isolated(bundle) as session:
        answers = session.score_each([TOKENS, TOKENS, TOKENS])
        next(answers)
        assert session.prefill(TOKENS[:3]).shape == (320,)
        assert list(answers) == []


def test_an_error_in_one_window_ends_the_answer_and_no_more(bundle: Bundle) -> None:
    with open_isolated(bundle) as session:
        answers = session.score_each([TOKENS, np.full(513, 5), TOKENS])
        assert next(answers).shape == (20, 320)
        with pytest.raises(MeasurementError, match="512"):
            next(answers)
        assert session.prefill(TOKENS).shape == (320,)


def test_an_error_in_an_answer_that_nobody_took_does_not_hold_up_the_next(bundle: Bundle) -> None:
    with open_isolated(bundle) as session:
        answers = session.score_each([TOKENS, np.full(513, 5), TOKENS])
        next(answers)
        assert session.prefill(TOKENS[:3]).shape == (320,)
        assert session.prefill(TOKENS[:3]).shape == (320,)
        assert list(answers) == []


def test_an_error_there_is_an_error_here_and_not_the_end(bundle: Bundle) -> None:
    with open_isolated(bundle) as session:
        with pytest.raises(MeasurementError, match="512"):
            session.score(np.full(513, 5))
        assert session.prefill(TOKENS).shape == (320,)


def test_a_bundle_that_the_runtime_refuses_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "damaged"))
    (folder / "model.gguf").write_bytes(b"GGUF, but not really")
    with pytest.raises(MeasurementError, match=r"model\.gguf"):
        open_isolated(open_bundle(folder))


@pytest.mark.parametrize(("number", "words"), [(signal.SIGKILL, "SIGKILL.*"), (signal.SIGABRT, "SIGABRT")])
def test_a_death_is_an_error_with_its_reason(bundle: Bundle, number: signal.Signals, words: str) -> None:
    with open_isolated(bundle) as session:
        session.prefill(TOKENS)
        os.kill(session.process_id, number)
        with pytest.raises(MeasurementError, match=f"ended by {words}"):
            session.score(TOKENS)


def test_nothing_is_left_running(bundle: Bundle) -> None:
    with open_isolated(bundle) as session:
        process_id = session.process_id
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)


def test_last_words_are_handed_on() -> None:
    error = died(Path("bundle"), -signal.SIGABRT, "loading\nGGML_ASSERT(n > 0) failed\n")
    assert "SIGABRT" in error.problem
    assert "GGML_ASSERT(n > 0) failed" in error.problem
    assert "ended with code 3: it printed nothing" in died(Path("bundle"), 3, "").problem
    assert "memory" in (died(Path("bundle"), -signal.SIGKILL, "").fix or "")


def test_only_a_sessions_own_questions_are_answered(bundle: Bundle) -> None:
    answers = io.BytesIO()
    with open_session(bundle) as session:
        serve(session, io.BytesIO(json.dumps({"ask": "close", "tokens": []}).encode() + b"\n"), answers)
    assert json.loads(answers.getvalue())["problem"] == "a session can't be asked 'close'"
