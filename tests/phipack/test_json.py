"""What `--json` prints, of every command, held to the schemas that docs/json.md publishes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from devtools.servers import RangeHandler, serving
from phipack.__main__ import main
from phipack.commands import cli
from phipack.json_form.commands import RESULTS, document_schema, result_schema
from phipack.json_reference import page
from tests.support.command_line import PROJECT, TOO_SMALL, write_project

Call = Callable[..., Any]


def leaves(command: click.Command, path: str = "") -> Iterator[str]:
    """Paths of all commands that do something."""
    if isinstance(command, click.Group):
        for name, member in command.commands.items():
            yield from leaves(member, f"{path} {name}".strip())
    else:
        yield path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, migrated_database: Path) -> Iterator[Path]:
    """A project's folder, which the process works in."""
    before = Path.cwd()
    place = write_project(tmp_path_factory.mktemp("json") / "project", tiny_folder, migrated_database)
    settings = {name: os.environ.pop(name, None) for name in ("MLFLOW_TRACKING_URI", "PHIPACK_STORE", "PHIPACK_KEYS")}
    os.chdir(place)
    yield place
    os.chdir(before)
    os.environ.update({name: value for name, value in settings.items() if value is not None})


@pytest.fixture
def call(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command in this process, hold its document to the schemas, and return it."""
    monkeypatch.setenv("PHIPACK_STATE", str(folder / "state"))

    def run(*arguments: str, expect: int = 0) -> Any:
        capfd.readouterr()
        code = main([*arguments, "--json"])
        printed = capfd.readouterr()
        assert code == expect, printed.out + printed.err
        document = json.loads(printed.out)
        jsonschema.validate(document, document_schema())
        assert document["ok"] == (code == 0)
        if document["command"] is not None and document.get("result") is not None:
            jsonschema.validate(document["result"], result_schema(document["command"]))
        if code:
            assert document["error"]["exit_code"] == code
        return document.get("result")

    return run


def test_every_command_has_its_schema() -> None:
    assert set(RESULTS) == set(leaves(cli))


def test_the_page_is_what_the_schemas_are() -> None:
    assert (Path(__file__).parents[2] / "docs" / "json.md").read_text("utf-8") == page(), "run make docs"


@pytest.mark.parametrize("command", [name for name in RESULTS if name != "serve"])
def test_schemas_are_sound_and_closed(command: str) -> None:
    schema = result_schema(command)
    jsonschema.Draft202012Validator.check_schema(schema)
    for name, part in {"": schema, **schema.get("$defs", {})}.items():
        if part.get("type") == "object" and "properties" in part:
            assert part.get("description") or name == "", name


def test_what_there_is(call: Call) -> None:
    assert len(call("targets", "ls")["targets"]) >= 12
    assert call("targets", "show", "iphone-15")["name"] == "iphone-15"
    assert {row["name"] for row in call("recipes")["recipes"]} >= {"onnx-int4", "coreml-int4"}
    assert call("fit", "phi-3-mini-4k-instruct", "--target", "iphone-15")["model"] == "phi-3-mini-4k-instruct"
    assert call("fit", "./checkpoint", "--target", "iphone-15")["recipes"][0]["bundle_bytes"]
    call("targets", "show", "iphone-51", expect=1)
    call("fit", expect=2)


def test_checkpoints_and_bundles(call: Call) -> None:
    built = call("build", "checkpoint", "--recipe", "gguf-f16", "--recipe", "gguf-q8_0", "-o", "built", "--profile")
    assert [row["recipe"] for row in built["bundles"]] == ["gguf-f16", "gguf-q8_0"]
    assert call("inspect", "built/gguf-f16", "--verify")["verified"]
    assert call("inspect", "checkpoint")["kind"] == "checkpoint"
    assert call("calibrate", "checkpoint")["tokens"] == 2048
    assert call("convert", "checkpoint", "--layout", "llama", "-o", "llama")["layout"] == "llama"
    common = ("validate", "built/gguf-f16", "--against", "checkpoint", "--tokens", "256")
    assert call(*common, "--gate", "kl_mean<=1")["gates"][0]["passed"]
    assert not call(*common, "--gate", "kl_mean<=1e-12", expect=3)["gates"][0]["passed"]
    assert isinstance(call("generate", "built/gguf-f16", "Hello", "--max-tokens", "2")["text"], str)
    assert len(call("split", "built/gguf-f16", "--max-part-bytes", "200kB", "-o", "parts")["parts"]) > 1
    assert call("join", "parts", "-o", "joined")["recipe"] == "gguf-f16"
    assert call("build", "checkpoint", "--recipe", "gguf-f16", "-o", "built/gguf-f16", expect=1) is None


def test_a_release_on_its_way_to_phones(call: Call, folder: Path) -> None:
    (folder / "phipack.toml").write_text(PROJECT + TOO_SMALL, "utf-8")
    cells = {cell["cell"]: cell for cell in call("release", expect=1)["cells"]}
    assert "does not fit" in cells["pocket"]["problem"]["problem"]
    assert cells["iphone-15"]["registered"]
    (folder / "phipack.toml").write_text(PROJECT, "utf-8")
    assert [cell["built"] for cell in call("release", "--dry-run")["cells"]] == [False, False]
    assert call("release")["passed"]
    assert [row["channels"] for row in call("ls")["versions"]] == [[], []]
    assert call("promote", "tiny:1.0.0", "--to", "production", "--reason", "first")["reason"] == "first"
    assert call("show", "tiny")["cells"][0]["evidence"]["figures"]
    assert call("history", "tiny")["moves"][0]["kind"] == "promotion"
    call("rollback", "tiny", expect=1)
    assert not call("diff", "tiny:1.0.0@iphone-15", "tiny:production@iphone-15")["differs"]
    assert call("diff", "tiny:1.0.0@iphone-15", "tiny:1.0.0@galaxy-s24")["differences"][0]["files"]
    assert call("keys", "init")["root_version"] == 1
    assert call("publish", "tiny", "--to", "web", "--new-catalog")["cells"][0]["stages"] == [
        {"version": "1.0.0", "rollout_percent": 100}
    ]
    assert call("publish", "--refresh", "--to", "web")["expires"]
    assert call("keys", "rotate", "timestamp")["root_version"] == 2
    assert call("keys", "show")["roles"][0]["role"] == "root"
    assert call("fetch", "tiny:production@iphone-15", "-o", "fetched")["recipe"] == "onnx-int4"
    with serving(folder / "web", kind=RangeHandler) as url:
        root = str(folder / ".phipack/keys/1.root.json")
        found = call("fetch", url, "--device", "iPhone15,4", "--root", root, "-o", "app")
    assert found["reference"] == "tiny:1.0.0@iphone-15"
    assert call("gc", "--dry-run")["dry_run"]
    assert call("registry", "relocate", "--dry-run")["moved"] == []


def test_the_rest(call: Call) -> None:
    call("doctor")
    call("schema", "project")
    call("completion", "bash")
    call("serve", expect=1)
    call("export", "nowhere", "-o", "out", expect=1)
