"""`phipack schema`: what editors hold project and target files to is what phipack holds them to."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from phipack.editor_schemas import editor_schema
from targets.devices import Target
from targets.evidence import FIGURES
from targets.project_table import ProjectTable
from tests.support.command_line import POCKET, PROJECT, TOO_SMALL, InProcess

WHOLE = (
    PROJECT.replace("[gates]", "text = 'held-out.txt'\n[gates]")
    + TOO_SMALL.replace("gguf-f16", "gguf-q4_0")
    + """
context_length = 2048
gates = { same_top_share = { at_least = 0.9 } }
size = { at_most = "1.9 GiB" }

[channels.production]
promoters = ["alice", "release-bot@ci-1"]

[registry]
tracking_uri = "https://mlflow.example"
store = "bundles"
"""
)


def project() -> dict[str, Any]:
    return tomllib.loads(WHOLE)


def targets() -> Iterator[str]:
    yield POCKET
    for entry in resources.files("targets.devices").iterdir():
        if entry.name.endswith(".toml"):
            yield entry.read_text("utf-8")


@pytest.mark.parametrize("kind", ["project", "target"])
def test_it_is_printed_as_json(command: InProcess, kind: str) -> None:
    schema = command("schema", kind).document
    jsonschema.Draft7Validator.check_schema(schema)
    assert schema == command("--json", "schema", kind).document["result"]
    assert schema["$id"] == f"urn:phipack:schema:{kind}:1"


def test_right_files_pass() -> None:
    jsonschema.validate(project(), editor_schema("project"))
    jsonschema.validate(tomllib.loads(WHOLE.replace('{ at_most = "1.9 GiB" }', '"fit"')), editor_schema("project"))
    for text in targets():
        jsonschema.validate(tomllib.loads(text), editor_schema("target"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("modell",), "x"),
        (("cells",), []),
        (("cells", 0, "recipe"), "onnx-int5"),
        (("cells", 0, "target"), "iphone-99"),
        (("cells", 0, "context_length"), 0),
        (("cells", 0, "size"), "2.0GB"),
        (("cells", 0, "size"), {"at_most": "2.0 gb"}),
        (("cells", 0, "size"), {}),
        (("cells", 0, "bits"), 17),
        (("cells", -1, "bits"), 4.2),  # which has a size
        (("gates", "kl_meen"), {"at_most": 1.0}),
        (("gates", "kl_mean"), {"at_most": 1.0, "at_least": 0.1}),
        (("gates", "kl_mean"), {}),
        (("evaluation", "tokens"), 2),
        (("registry", "stores"), "x"),
        (("registry", "store"), None),
        (("channels", "production", "promotors"), ["alice"]),
    ],
)
def test_what_phipack_refuses_editors_mark(path: tuple[str | int, ...], value: object) -> None:
    document: Any = project()
    ProjectTable.model_validate(copy.deepcopy(document))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, editor_schema("project"))
    if value is not None:  # TOML has none
        with pytest.raises(ValidationError):
            ProjectTable.model_validate(document)


def test_every_key_says_what_it_is_for() -> None:
    def keys(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from node.get("properties", {}).items()
        for definition in node.get("$defs", {}).values():
            yield from keys(definition)

    for kind in ("project", "target"):
        schema = editor_schema("project" if kind == "project" else "target")
        for name, value in keys(schema):
            definition = schema["$defs"].get(value.get("$ref", "").rpartition("/")[2], {})
            assert len((value | definition).get("description", "")) > 10, (kind, name)
            assert "title" not in value or name == "title"


def test_gates_offer_every_figure() -> None:
    assert set(editor_schema("project")["properties"]["gates"]["properties"]) == set(FIGURES)
    assert set(editor_schema("target")["properties"]) == set(Target.model_fields)
