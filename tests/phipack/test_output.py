"""What is printed, where, and how a command ends: envelope, errors, pipes, tables, figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from phipack import tables
from phipack.__main__ import main
from phipack.api.releasing import sentence
from phipack.api.results import CellReport
from phipack.commands.differences import _fact_row
from phipack.log_file import open_log
from phipack.output import Output, as_json
from phipack.problems import explain
from phipack.tables import table
from registry.diff.compare import Change
from targets.errors import (
    Failure,
    FetchUnreachableError,
    GateError,
    MalformedReferenceError,
    PhipackError,
    RegistryError,
)
from targets.formatting import bound, duration, figure, rate, share, signed_size, size
from targets.printable import is_obeyed
from targets.progress import Notice, Step
from tests.support.command_line import InProcess


def test_a_result_is_printed_as_text_or_as_the_envelope(command: InProcess) -> None:
    assert "onnx-int4" in command("recipes").stdout
    document = command("--json", "recipes").document
    assert list(document) == ["schema", "ok", "command", "result"]
    assert {row["name"] for row in document["result"]["recipes"]} >= {"onnx-int4", "coreml-int4"}
    assert command("--quiet", "recipes") == command("recipes", "--quiet")
    assert command("--quiet", "recipes").stdout == ""


def test_ctrl_c_while_an_error_is_logged_is_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_: object, text: str) -> None:
        if "Traceback" in text:
            raise KeyboardInterrupt

    monkeypatch.setattr("phipack.log_file.LogFile.write", write)
    assert main(["targets", "show", "nothing", "--log-file", str(tmp_path / "log")]) == 130


def test_an_error_is_json_on_standard_output(command: InProcess) -> None:
    done = command("targets", "show", "iphone-14-por", "--json", expect=1)
    assert done.stderr == ""
    assert done.document == {
        "schema": "phipack.cli/1",
        "ok": False,
        "command": "targets show",
        "error": {
            "kind": "TargetError",
            "problem": "unknown target 'iphone-14-por'",
            "fix": "did you mean 'iphone-14-pro'?",
            "exit_code": 1,
            "failures": [],
            "registry": None,
        },
    }


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--json"], None),
        (["--json", "promot"], None),
        (["--json", "promote"], "promote"),
        (["promote", "--nothing", "--json"], "promote"),
        (["targets", "show", "--json"], "targets show"),
        (["ls", "--quiet", "--json"], "ls"),
    ],
)
def test_wrong_usage_is_json_too(command: InProcess, arguments: list[str], name: str | None) -> None:
    document = command(*arguments, expect=2).document
    assert document["command"] == name
    assert (document["error"]["kind"], document["error"]["exit_code"]) == ("UsageError", 2)
    assert document["error"]["problem"]
    assert document["error"]["fix"] == " ".join(filter(None, ("phipack", name, "--help")))


def test_json_after_two_dashes_is_an_argument(command: InProcess) -> None:
    done = command("targets", "show", "x", "--", "--json", expect=2)
    assert done.stdout == ""
    assert "targets show" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--json", "--help"], ["ls", "--json", "--help"], ["--version"]])
def test_help_is_text(command: InProcess, arguments: list[str]) -> None:
    assert not command(*arguments).stdout.startswith("{")


def test_a_result_and_an_error_are_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(mode="json", command="release")
    output.result([{"cell": "iphone-15"}], "")
    error = GateError(
        "1 of 1 cells failed",
        failures=[Failure("iphone-15", "kl_mean is 0.2, must be <= 0.05")],
        fix="see phipack show",
    )
    output.end(explain(error))
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert document["result"] == [{"cell": "iphone-15"}]
    assert document["error"]["exit_code"] == 3
    assert document["error"]["failures"] == [{"cell": "iphone-15", "problem": "kl_mean is 0.2, must be <= 0.05"}]


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (PhipackError("x", fix="y"), "PhipackError", 1),
        (GateError("x", fix="y"), "GateError", 3),
        (FetchUnreachableError("x", fix="y"), "FetchUnreachableError", 4),
        (click.UsageError("x"), "UsageError", 2),
        (click.Abort(), "Interrupted", 130),
        (KeyboardInterrupt(), "Interrupted", 130),
        (MemoryError(), "MemoryError", 1),
        (ModuleNotFoundError("x", name="nothing_like_it"), "MissingModuleError", 1),
        (OSError(28, "No space left on device"), "StandardOutputError", 1),
        (ValueError("x"), "InternalError", 1),
    ],
)
def test_each_way_to_fail_has_its_kind_and_code(error: BaseException, kind: str, code: int) -> None:
    problem = explain(error, arguments=("show", "a b"))
    assert problem is not None
    assert (problem.kind, problem.exit_code) == (kind, code)
    if kind == "InternalError":
        assert problem.fix is not None
        assert "phipack --log-file phipack.log show 'a b'" in problem.fix


def test_an_interrupt_says_what_is_kept() -> None:
    abort, abort.__cause__ = click.Abort(), KeyboardInterrupt()  # as click raises it
    abort.__cause__.add_note("the same command continues the download")
    problem = explain(abort)
    assert problem is not None
    assert problem.text == "interrupted; the same command continues the download"


def test_for_a_reader_that_is_gone_nothing_is_reported() -> None:
    assert explain(BrokenPipeError()) is None


def test_a_malformed_reference_is_about_no_registry() -> None:
    problem = explain(MalformedReferenceError("'phi:' is no reference", fix="write MODEL"), registry="sqlite:///x.db")
    assert problem is not None
    assert "registry" not in problem.text


def test_a_cell_that_fails_is_named_once() -> None:
    error = GateError("galaxy-s24 does not pass: kl_mean is 0.3", fix="choose another recipe")
    said = sentence(CellReport("galaxy-s24", "galaxy-s24", "gguf-q4_0", problem=error))
    assert said.startswith("galaxy-s24: FAILED: does not pass: kl_mean is 0.3")


def test_a_difference_of_calibration_is_no_python() -> None:
    row = _fact_row(Change("recipe.calibration", {"level": "light", "tokens": 4096}, None))
    assert row == ("recipe.calibration", "level light, tokens 4096", "-")


def test_an_error_of_the_registry_says_which_was_read() -> None:
    problem = explain(RegistryError("no model 'phi' is registered", fix="register one"), registry="sqlite:///x.db")
    assert problem is not None
    assert problem.text == "no model 'phi' is registered\n  registry: sqlite:///x.db\n  fix: register one"
    already = explain(
        RegistryError("sqlite:///x.db can't be read", fix="see its permissions"), registry="sqlite:///x.db"
    )
    assert already is not None
    assert already.registry is None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["ls"], 0), (["ls", "phi"], 0), (["show", "phi:1.0.0"], 1), (["fetch", "phi@x", "-o", "y"], 1)],
)
def test_who_finds_nothing_says_where_it_looked(
    command: InProcess, tmp_path: Path, arguments: list[str], code: int
) -> None:
    done = command(*arguments, expect=code)
    assert f"sqlite:///{tmp_path}/.phipack/mlflow.db" in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["ls"], ["fetch", "phi@x", "-o", "y"]])
def test_who_finds_nothing_creates_no_registry(command: InProcess, tmp_path: Path, arguments: list[str]) -> None:
    command(*arguments, expect=0 if arguments == ["ls"] else 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["targets", "ls"], ["--json", "targets", "ls"], ["--help"], ["--json", "promot"]]
)
def test_a_full_disk_behind_standard_output_is_a_sentence(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "phipack", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "standard output can't be written: No space left on device" in done.stderr
    assert done.stderr.count("phipack:") == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("arguments", [["targets", "ls"], ["--json", "targets", "ls"], ["--help"]])
def test_a_closed_pipe_ends_with_1_and_says_nothing(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "phipack", *arguments], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_closed_standard_output_is_a_sentence() -> None:
    program = f"exec {sys.executable} -m phipack targets ls >&-"
    done = subprocess.run(["/bin/sh", "-c", program], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "standard output is closed" in done.stderr


def test_json_holds_what_json_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(as_json({"a": [float("nan"), float("inf"), -float("inf")]})) == {
        "a": ["NaN", "Infinity", "-Infinity"]
    }
    assert json.loads(as_json({"name": "caf\N{LATIN SMALL LETTER E WITH ACUTE}\udcff"}))["name"][:3] == "caf"


def test_output_that_is_no_utf_8_gets_what_it_can_show() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for arguments in (["targets", "show", "iphone-15"], ["--json", "targets", "show", "iphone-15"]):
        done = subprocess.run(
            [sys.executable, "-m", "phipack", *arguments], env=environment, capture_output=True, check=True
        )
        assert done.stdout.isascii()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (999_600, "1 MB"),
        (97_666_300, "97.7 MB"),
        (2_180_000_000, "2.18 GB"),
        (-1500, "-1.5 kB"),
        (5e15, "5000 TB"),
    ],
)
def test_sizes_are_decimal(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3900, "1 h 05 min")],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_figures_have_their_units() -> None:
    assert figure("artifact_bytes", 97_666_300.0) == "97.7 MB"
    assert figure("kl_mean", 0.0123456) == "0.01235 nat"
    assert figure("same_top_share", 0.982) == "98.20 %"
    assert figure("perplexity_ratio", 1.0234) == "1.023"
    assert figure("decode_tokens_per_second", 16.83) == "16.83 token/s"
    assert figure("kl_max", float("inf")) == "inf"
    assert figure("kl_max", None) == "-"
    assert figure("a_new_one", 3.0, "ms") == "3 ms"
    assert bound("peak_memory_bytes", "<= 4294967296") == "<= 4.29 GB"
    assert bound("kl_mean", "<= 1e-09") == "<= 1e-09 nat"
    assert (share(0.5), rate(35e6), signed_size(1500)) == ("50.00 %", "35 MB/s", "+1.5 kB")


def test_tables_set_numbers_flush_right() -> None:
    assert table(("name", "count"), [("a", 5), ("bcd", 10)]).splitlines() == [
        "name  count",
        "----  -----",
        "a         5",
        "bcd      10",
    ]


WORDS = "the weights of this release were measured on another machine than those of the last"


def test_a_wide_table_is_wrapped() -> None:
    text = table(("cell", "size", "why"), [("iphone-15", "2.18 GB", WORDS), ("pixel-9", "12 MB", "-")], width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.splitlines()[2].startswith("iphone-15  2.18 GB  the weights")
    assert " ".join(" ".join(line[20:] for line in text.splitlines()[2:-1]).split()) == WORDS


def test_a_table_that_cannot_be_wrapped_is_a_block_a_row() -> None:
    columns = [f"column {number}" for number in range(12)]
    text = table(columns, [["0123456789"] * 12, [WORDS] * 12], width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.splitlines()[0] == "column 0   0123456789"
    assert text.count("\n\n") == 1


def test_a_table_in_a_file_is_as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert tables.output_width() is None
    assert WORDS in table(("cell", "why"), [("x" * 90, WORDS)])
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, table(("cell", "why"), [("x" * 90, WORDS)]).splitlines())) <= 60


def test_a_table_shows_no_control_characters() -> None:
    text = table(("who", "why"), [("eve", "\x1b[2J\x07gone\r\nnext")])
    assert "\x1b" not in text
    assert "\x07" not in text
    assert len(text.splitlines()) == 3


def test_wide_characters_keep_columns_aligned() -> None:
    lines = table(("name", "n"), [("電話", "x"), ("ab", "y")]).splitlines()
    assert lines[2] == "電話  x"
    assert lines[3] == "ab    y"


@pytest.mark.parametrize(
    "arguments", [["targets", "ls"], ["recipes"], ["fit", "phi-3-mini-4k-instruct", "--target", "iphone-15"]]
)
def test_commands_follow_columns(command: InProcess, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    done = command(*arguments)
    head, *_ = done.stdout.splitlines()
    lines = done.stdout.splitlines()[1:] if arguments[0] == "fit" else done.stdout.splitlines()
    assert head
    assert max(map(len, lines)) <= 60
    json.loads(command("--json", *arguments).stdout)


HOSTILE = "\x1b[2J\x9b31m\r\N{RIGHT-TO-LEFT OVERRIDE}"


def test_what_others_wrote_moves_no_cursor(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = Output(log=open_log(tmp_path / "log"))
    output.result({}, f"a result {HOSTILE}")
    output.stream(HOSTILE)
    output.note(HOSTILE)
    output.on_progress(Notice(HOSTILE))
    output.on_progress(Step("download", 0, 10, "bytes", f"file {HOSTILE}"))
    output.end(explain(PhipackError(f"a problem {HOSTILE}", fix=HOSTILE)))
    output.end(explain(ValueError(HOSTILE)))
    output.close(1, 0.1)
    printed = capsys.readouterr()
    for text in (printed.out, printed.err, (tmp_path / "log").read_text()):
        assert not any(map(is_obeyed, text))
        assert "\\x1b[2J\\x9b31m" in text


def test_in_json_it_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(mode="json")
    output.result({HOSTILE: HOSTILE}, "")
    output.end(None)
    printed = capsys.readouterr().out
    assert not any(map(is_obeyed, printed))
    assert json.loads(printed)["result"] == {HOSTILE: HOSTILE}


def test_in_a_table_it_is_counted_as_it_is_shown() -> None:
    lines = table(("name", "note"), [(HOSTILE, "a"), ("two\nlines", "b")]).splitlines()
    assert lines[2] == "\\x1b[2J\\x9b31m \\u202e  a"
    assert lines[3] == "two lines              b"


def test_a_problem_of_several_lines_forges_no_fix() -> None:
    problem = explain(RegistryError("MLflow says\n  fix: curl elsewhere | sh", fix="ask"))
    assert problem is not None
    assert problem.text == "MLflow says\n    fix: curl elsewhere | sh\n  fix: ask"
