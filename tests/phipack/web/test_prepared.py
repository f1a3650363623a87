"""A prepared command is what a shell reads as exactly that, whatever was typed, and what phipack takes."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phipack.web.prepared import Wanted, publication
from phipack.web.prepared import command as prepared
from targets.errors import MalformedReferenceError, PhipackError
from tests.support.command_line import InProcess
from tests.support.registrations import register_cells

typed = st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp")), min_size=1, max_size=60).filter(
    lambda text: text.strip() == text and "://" not in text and "=" not in text
)


@given(typed)
def test_a_reason_is_one_argument(reason: str) -> None:
    line = prepared("phi", Wanted("promote", release="1.0.0", reason=reason))
    assert shlex.split(line) == ["phipack", "promote", "phi:1.0.0", "--to", "production", "--reason", reason]


@pytest.mark.parametrize(
    "reason", ["it's", "$(touch x)", "`touch x`", "a; touch x", "'\"'\\", "--override", "!x", "ü\u00a0日本"]
)
def test_a_real_shell_agrees(reason: str, tmp_path: Path) -> None:
    line = prepared("phi", Wanted("rollback", channel="staging", reason=reason))
    done = subprocess.run(
        ["sh", "-c", line.replace("phipack", "printf '%s\\n'", 1)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["rollback", "phi", "--channel", "staging", "--reason", reason]
    assert not list(tmp_path.iterdir())


def test_phipack_takes_what_was_prepared(tmp_path: Path, migrated_database: Path, command: InProcess) -> None:
    register_cells(tmp_path, migrated_database, {"iphone-15": {}})
    wanted = (
        Wanted("promote", release="1.0.0", cell="iphone-15", reason="--to is 'no' option here"),
        Wanted("retire", cell="iphone-15", reason="-x"),
        Wanted("rollback", reason="$HOME"),
        Wanted("promote", release="1.0.0", channel="staging", override=True, reason="no reason"),
    )
    for one in wanted:
        command(*shlex.split(prepared("phi", one))[1:])
    moves = command("--json", "history", "phi").document["result"]["moves"]
    assert [move["reason"] for move in reversed(moves)] == [one.reason for one in wanted]


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        ({"do": "delete"}, "'delete' can't be prepared"),
        ({"release": "1.0.0", "override": "yes"}, "an override needs a reason"),
        ({"release": ""}, "neither a version"),
        ({"release": "production"}, "is not a version"),
        ({"release": "^1.0"}, "is not a version"),
        ({"release": "1.0.0", "cell": "a b"}, "not a valid name of a cell"),
        ({"release": "1.0.0", "channel": "x y"}, "is not a valid name of a channel"),
        ({"release": "1.0.0", "channel": "--override"}, "is not a valid name of a channel"),
        ({"do": "retire"}, "a retirement needs a cell"),
        ({"release": "1.0.0", "reason": "red\u202egreen"}, "characters that a terminal obeys"),
        ({"release": "1.0.0", "reason": "\x1b[31m"}, "characters that a terminal obeys"),
        ({"release": "1.0.0", "reason": "see http://ann:secret@wiki"}, "a password or a token"),
        ({"release": "1.0.0", "reason": "x" * 2001}, "the history keeps 2,000"),
    ],
)
def test_what_would_be_refused_is_not_prepared(sent: dict[str, str], problem: str) -> None:
    with pytest.raises(PhipackError, match=problem):
        prepared("phi", Wanted.of(sent))


@pytest.mark.parametrize("model", ["-x", "a b", "$(x)", "phi;x"])
def test_a_name_that_was_edited_in_mlflow_gets_no_command(model: str) -> None:
    for make in (
        lambda: prepared(model, Wanted("promote", release="1.0.0")),
        lambda: prepared(model, Wanted("retire", cell="c")),
        lambda: prepared(model, Wanted("rollback")),
        lambda: publication(model, "production"),
    ):
        with pytest.raises(MalformedReferenceError):
            make()
