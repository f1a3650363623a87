"""A user whom the system does not know: a container's random number, without USER and HOME."""

from __future__ import annotations

import os
import pwd

import pytest

from targets.errors import SetupError
from targets.this_user import expanded, home_folder, user_name


@pytest.fixture
def _unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(who: object) -> None:
        raise KeyError(who)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)


@pytest.mark.usefixtures("_unknown")
def test_an_unknown_user_has_a_name_and_no_home() -> None:
    assert user_name() == f"uid{os.getuid()}"
    assert home_folder() is None
    assert str(expanded("a/~b")) == "a/~b"
    with pytest.raises(SetupError, match=r"~/x: HOME is not set.*this user \(uid"):
        expanded("~/x")
    with pytest.raises(SetupError, match="no entry for user 'bob'"):
        expanded("~bob/x")


def test_a_known_user_is_named_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "alice")
    monkeypatch.setenv("HOME", "/home/alice")
    assert (user_name(), str(expanded("~/x"))) == ("alice", "/home/alice/x")
