"""TOML files read into pydantic models, every error with file, line and key.

The standard library's parser gives no positions, so a key's line is looked for in the source: table headers and
`key =` lines, which is how target and project files are written. Where a key can't be found, the line of its table is
given.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from targets.errors import PhipackError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)
_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*=""")
_PART = re.compile(r""""([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+)""")
_SYNTAX_LINE = re.compile(r"\(at line (\d+)")
Keys = Sequence[str | int]


def read_toml(path: Path, model: type[Model], error: type[PhipackError]) -> Model:
    """Read a TOML file into a model. Raises `error`, `file:line: key: problem`, where it can't be read or is wrong."""
    try:
        source = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else "it is not UTF-8"
        raise error(f"{path}: can't be read: {reason}", fix="give the path of a TOML file") from cause
    return parse_toml(source, model, error, name=str(path))


def parse_toml(source: str, model: type[Model], error: type[PhipackError], *, name: str) -> Model:
    """Do the same for text; `name` is what errors call it."""
    try:
        content = tomllib.loads(source)
    except tomllib.TOMLDecodeError as cause:
        found = _SYNTAX_LINE.search(str(cause))
        line = int(found[1]) if found else source.count("\n") + 1
        reason = str(cause).partition(" (at")[0]
        fix = "a string needs quotes, a table a [header]"
        raise error(f"{name}:{line}: {reason}", fix=fix) from cause
    try:
        return model.model_validate(content)
    except ValidationError as cause:
        raise _located(cause, source, model, error, name) from cause


def line_of(source: str, keys: Keys) -> int:
    """Give the line, from 1, where a key path such as `("cells", 1, "recipe")` is set; else its nearest parent's."""
    best, line = 0, 1
    prefix: tuple[str | int, ...] = ()
    counts: dict[tuple[str | int, ...], int] = {}
    for number, text in enumerate(source.splitlines(), start=1):
        if header := _HEADER.match(text):
            prefix = _table(_parts(header[2]), counts, repeated=header[1] == "[[")
            found = prefix
        elif key := _KEY.match(text):
            found = prefix + _parts(key[1])
        else:
            continue
        if found == tuple(keys[: len(found)]) and len(found) > best:
            best, line = len(found), number
    return line


def _table(
    parts: tuple[str, ...], counts: dict[tuple[str | int, ...], int], *, repeated: bool
) -> tuple[str | int, ...]:
    """Give the path of a header's table: the number of its latest element after each array of tables on the way."""
    path: tuple[str | int, ...] = ()
    for place, part in enumerate(parts):
        path += (part,)
        if repeated and place == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path += (counts[path],)
    return path


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(next(group for group in match.groups() if group is not None) for match in _PART.finditer(dotted))


def _located(
    cause: ValidationError, source: str, model: type[BaseModel], error: type[PhipackError], name: str
) -> PhipackError:
    first = cause.errors()[0]
    keys = first["loc"]
    dotted = ".".join(str(key) for key in keys)
    fix = None
    if first["type"] == "extra_forbidden":
        problem = "unknown key"
        fix = did_you_mean(str(keys[-1]), _known_keys(model, keys[:-1]))
    elif first["type"] == "missing":
        problem = "missing key"
        fix = f"add {keys[-1]} = …"
    else:
        problem = first["msg"].removeprefix("Value error, ")
        # A validator that asked one of ours raises its error as a ValueError, from it: the fix comes along.
        wrapped = first.get("ctx", {}).get("error")
        if isinstance(wrapped, ValueError):
            inner = wrapped.__cause__
            fix = inner.fix if isinstance(inner, PhipackError) else None
        elif not isinstance(first["input"], (dict, list)):
            problem += f", not {first['input']!r}"
    return error(f"{name}:{line_of(source, keys)}: {dotted + ': ' if dotted else ''}{problem}", fix=fix)


def _known_keys(model: type[BaseModel], keys: Keys) -> list[str]:
    """Names that a table at this path may hold, so far as models (and lists and maps of them) say."""
    for key in keys:
        if isinstance(key, int) or key not in model.model_fields:
            continue
        inner = _model_in(model.model_fields[key].annotation)
        if inner is not None:
            model = inner
    return [field.alias or field_name for field_name, field in model.model_fields.items()]


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _model_in(argument)) is not None:
            return found
    return None
