"""Validations that are short."""

from __future__ import annotations

import pytest

from builders.runtime.session import Session
from builders.runtime.sessions import open_for_whole_context, open_session
from registry.bundle.folder import Bundle
from tests.support.validations import STEADY


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the bundle here and leave its speed out, where figures on tokens are what is looked at: 1 s in place of 6."""

    def opened(bundle: Bundle, *, for_whole_context: bool = False) -> Session:
        return open_for_whole_context(bundle) if for_whole_context else open_session(bundle)

    monkeypatch.setattr("builders.validation.validate.open_isolated", opened)
    monkeypatch.setattr("builders.validation.stretches.open_isolated", opened)
    monkeypatch.setattr("builders.validation.validate.measure_speed", lambda _: STEADY)
