"""`schema`: JSON Schemas for editors."""

from __future__ import annotations

import click

from phipack.options import State, pass_state


@click.command()
@click.argument("kind", type=click.Choice(("project", "target")))
@pass_state
def schema(state: State, kind: str) -> None:
    """Print the JSON Schema of phipack.toml (project) or of a target file (target), for editors.

    \b
    phipack schema project > phipack.schema.json
    and as the first line of phipack.toml:  #:schema ./phipack.schema.json

    Taplo, and Even Better TOML in VS Code, which uses it, then complete keys, recipes, targets and figures, and mark
    what is wrong.
    """  # noqa: D301 - click takes the backspace for a block that it must not wrap
    from phipack.editor_schemas import editor_schema
    from phipack.output import as_json

    found = editor_schema("project" if kind == "project" else "target")
    state.output.result(found, as_json(found))
