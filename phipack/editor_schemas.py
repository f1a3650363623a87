"""JSON Schemas of `phipack.toml` and of target files, for completion and checks in editors.

They are made from the models that read the files (`targets.project_table`, `targets.devices`), with what only a
validator knows added: recipes, targets, figures. TOML has no null, so no key takes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from targets.budget_table import FIT
from targets.devices import Target, load_targets
from targets.evidence import FIGURES
from targets.project_table import ProjectTable
from targets.recipes import RECIPES

Kind = Literal["project", "target"]
Schema = dict[str, Any]
DIALECT = "http://json-schema.org/draft-07/schema#"  # what taplo, which editors use for TOML, reads
_GATE = "#/$defs/Gate"


def editor_schema(kind: Kind) -> Schema:
    """Return the JSON Schema of a file: `project` for `phipack.toml`, `target` for a target's."""
    model: type[BaseModel] = ProjectTable if kind == "project" else Target
    title = "phipack.toml" if kind == "project" else "a target of phipack"
    schema = _plain(model.model_json_schema())
    schema["$defs"]["Gate"] |= {"minProperties": 1, "maxProperties": 1}
    if kind == "project":
        cell = schema["$defs"]["CellTable"]
        _name_choices(cell["properties"])
        cell["not"] = {"required": ["size", "bits"]}
    return {"$schema": DIALECT, "$id": f"urn:phipack:schema:{kind}:1", "title": title} | schema


def _name_choices(cell: Schema) -> None:
    cell["recipe"]["enum"] = list(RECIPES)
    own_file = {"type": "string", "pattern": r"/|\.toml$"}
    cell["target"]["anyOf"] = [{"type": "string", "enum": list(load_targets())}, own_file]
    cell["size"] = {"description": cell["size"].pop("description"), "anyOf": [cell["size"], {"const": FIT}]}


def _plain(node: Any) -> Any:
    """Drop pydantic's titles and nulls, and list the figures wherever a table holds gates."""
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, Mapping):
        return node
    found: Schema = {key: _plain(value) for key, value in node.items() if not _is_title(key, value)}
    if found.get("default", 0) is None:
        del found["default"]
    if isinstance(found.get("anyOf"), list):
        kept = [one for one in found.pop("anyOf") if one != {"type": "null"}]
        found |= kept[0] if len(kept) == 1 else {"anyOf": kept}
    if "$ref" in found and len(found) > 1:  # next to which draft 7 ignores other keys
        found["allOf"] = [{"$ref": found.pop("$ref")}]
    if found.get("additionalProperties") == {"$ref": _GATE}:
        found["properties"] = {name: _gate_on(unit, meaning) for name, (unit, meaning) in FIGURES.items()}
        found["additionalProperties"] = False
    return found


def _is_title(key: str, value: object) -> bool:
    """`title` is also the name of a target's key, whose value is a schema."""
    return key == "title" and isinstance(value, str)


def _gate_on(unit: str, meaning: str) -> Schema:
    return {"allOf": [{"$ref": _GATE}], "description": meaning if unit == "1" else f"{meaning}, in {unit}"}
