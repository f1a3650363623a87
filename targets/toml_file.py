"""Reads TOML files into pydantic models. Every error has the file, the line and the key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError

from targets.bounded_file import TooLargeError, read_at_most
from targets.errors import PhipackError, closest, did_you_mean
from targets.toml_lines import DEPTH_LIMIT, KeyPath, key_lines

Model = TypeVar("Model", bound=BaseModel)
_SYNTAX_LINE = re.compile(r"\(at line (\d+)")
_KEY_MARK = "[key]"  # the last part of pydantic's location of an error in a key itself
_QUOTED = re.compile(r"'([^']*)'")
_SHOWN_VALUE_LENGTH = 80
_ABOVE = "{key} is a key of the whole file: move it to the top, above the first [header]"
BYTES_LIMIT = 1 << 17  # a project of a thousand cells has less
_INTEGER_BITS = 63
_DECLARED = re.compile(r"Cannot declare \((.*)\) twice")
_OPENED = re.compile(rf"(?:[\[{{][^\[\]{{}}]*+){{{DEPTH_LIMIT}}}")  # brackets, none of which is closed in between
_TOO_DEEP = f"tables or arrays nested deeper than {DEPTH_LIMIT} levels"
_FLATTEN = "write the value that this key's documentation shows: none is nested as deeply"
_TABLE_KINDS = ("dict_type", "model_type", "model_attributes_type")  # pydantic's errors where a table is needed
_FIXES = {  # by pydantic's type of error; {key} is the key, the other fields are those of pydantic's context
    "string_type": 'write a string in quotes: {key} = "…"',
    "string_too_short": "write at least {min_length} character(s)",
    "string_pattern_mismatch": "write a value that matches the regular expression {pattern}",
    "int_type": "write a whole number without quotes or a decimal point: {key} = 1",
    "int_from_float": "write a whole number without a decimal point: {key} = 1",
    "float_type": "write a number without quotes: {key} = 1.0",
    "finite_number": "write a number other than inf and nan",
    "bool_type": "write {key} = true or {key} = false",
    "list_type": "write a list in brackets: {key} = […]",
    "tuple_type": "write a list in brackets: {key} = […]",
    "too_short": "add at least {min_length} item(s) to {key}",
    "too_long": "keep at most {max_length} items in {key}",
    "greater_than": "write a number greater than {gt:g}",
    "greater_than_equal": "write a number of at least {ge:g}",
    "less_than": "write a number less than {lt:g}",
    "less_than_equal": "write a number of at most {le:g}",
    "literal_error": "write one of {expected}",
}


class RefusedValueError(ValueError):
    """Raised by validators to refuse a value. `at`: the path of the wrong value, below the validated one."""

    def __init__(self, problem: str, *, at: KeyPath = (), fix: str) -> None:
        super().__init__(problem)
        self.at = at
        self.fix = fix


def read_toml(path: Path, model: type[Model], error: type[PhipackError]) -> Model:
    """Read a TOML file into a model.

    Raises:
        PhipackError: of class `error`, with the problem `file:line: key: …`: the file can't be read or is invalid.
    """
    try:
        raw = read_at_most(path, BYTES_LIMIT)
        source = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except TooLargeError as cause:
        raise error(f"{path}: {cause}", fix="use the path of the right TOML file") from cause
    except (OSError, ValueError) as cause:
        reason = "it is not UTF-8" if isinstance(cause, UnicodeDecodeError) else getattr(cause, "strerror", str(cause))
        raise error(f"{path}: can't be read: {reason}", fix="use the path of a readable TOML file in UTF-8") from cause
    return parse_toml(source, model, error, name=str(path))


def parse_toml(source: str, model: type[Model], error: type[PhipackError], *, name: str) -> Model:
    """Read TOML text into a model, as `read_toml` does. `name` is the file's name in errors."""
    try:
        content = tomllib.loads(source)
    except RecursionError as cause:
        deep = _OPENED.search(source)
        line = source.count("\n", 0, deep.start()) + 1 if deep else 1
        raise error(f"{name}:{line}: {_TOO_DEEP}", fix=_FLATTEN) from cause
    except ValueError as cause:  # also for a number of thousands of digits
        found = _SYNTAX_LINE.search(str(cause))
        line = int(found[1]) if found else source.count("\n") + 1
        reason = str(cause).partition(" (at")[0]
        reason, fix = _syntax(reason)
        raise error(f"{name}:{line}: {reason}", fix=fix) from cause
    _require_bounds(content, source, error, name)
    try:
        return model.model_validate(content)
    except ValidationError as cause:
        raise _located(cause, source, model, error, name) from cause


def _syntax(reason: str) -> tuple[str, str]:
    """Return what the parser refused, in a user's words, and the fix."""
    if (twice := _DECLARED.fullmatch(reason)) is not None:
        header = ".".join(re.findall(r"'([^']*)'", twice[1]))
        return f"[{header}] is there twice", f"keep one; where each is one of several, write [[{header}]] for each"
    if reason == "Cannot overwrite a value":
        return "this key, or a part of it, is there already", "keep one of the two"
    return reason, "correct the TOML on this line: a string needs quotes, a table needs a [header]"


def _require_bounds(content: object, source: str, error: type[PhipackError], name: str) -> None:
    """Raise `error` for an integer beyond TOML's 64 bits, or for tables nested deeper than `DEPTH_LIMIT`."""
    waiting: list[tuple[KeyPath, object]] = [((), content)]
    while waiting:
        keys, value = waiting.pop()
        if isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
            where = f"{name}:{line_of(source, keys)}: {'.'.join(map(str, keys))}"
            raise error(f"{where}: an integer of more than 64 bits", fix="write a smaller number")
        if len(keys) > DEPTH_LIMIT:
            raise error(f"{name}:{line_of(source, keys)}: {_TOO_DEEP}", fix=_FLATTEN)
        if isinstance(value, dict):
            waiting += (((*keys, key), inner) for key, inner in value.items())
        elif isinstance(value, list):
            waiting += (((*keys, place), inner) for place, inner in enumerate(value))


def located(path: Path, keys: KeyPath) -> str:
    """Return `file:line: key` of a key that a file has; the file alone where it can't be read again."""
    dotted = ".".join(map(str, keys))
    try:
        source = read_at_most(path, BYTES_LIMIT).decode("utf-8-sig").replace("\r\n", "\n")
        tomllib.loads(source)
    except (OSError, ValueError, TooLargeError, RecursionError):
        return f"{path}: {dotted}"
    return f"{path}:{line_of(source, keys)}: {dotted}"


def line_of(source: str, keys: KeyPath) -> int:
    """Return the line, from 1, where a key path such as `("cells", 1, "recipe")` or its nearest parent is set."""
    return _nearest(key_lines(source), keys)


def _nearest(lines: dict[KeyPath, int], keys: KeyPath) -> int:
    return next((lines[keys[:end]] for end in range(len(keys), 0, -1) if keys[:end] in lines), 1)


def _located(
    cause: ValidationError, source: str, model: type[BaseModel], error: type[PhipackError], name: str
) -> PhipackError:
    """Return one of pydantic's errors: an unknown key if there is one, otherwise the first in the file.

    An unknown key comes first because it is often a misspelt key that is then missing, too.
    """
    lines = key_lines(source)
    found = []
    for details in cause.errors():
        keys, problem, fix = _described(details, model)
        found.append((details["type"] != "extra_forbidden", _nearest(lines, keys), keys, problem, fix))
    _, line, keys, problem, fix = min(found, key=lambda one: one[:2])
    dotted = ".".join(str(key) for key in keys)
    return error(f"{name}:{line}: {dotted + ': ' if dotted else ''}{problem}", fix=fix)


def _described(details: Any, model: type[BaseModel]) -> tuple[KeyPath, str, str]:
    """Return the key path, problem and fix of one of pydantic's errors."""
    keys: KeyPath = details["loc"]
    kind = details["type"]
    context = details.get("ctx", {})
    if kind == "extra_forbidden":
        return keys, "unknown key", _unknown_key(model, keys)
    if keys and keys[-1] == _KEY_MARK:
        return keys[:-1], "unknown key", did_you_mean(str(keys[-2]), _QUOTED.findall(context.get("expected", "")))
    if kind == "missing":
        return keys, "missing key", f"add {_header(model, keys) or f'{keys[-1]} = …'}"
    if kind in _TABLE_KINDS or (kind == "list_type" and _header(model, keys) is not None):
        return keys, *_wrong_shape(model, keys, details["input"], list_needed=kind == "list_type")
    refused = context.get("error")
    if isinstance(refused, RefusedValueError):
        return keys + refused.at, str(refused), refused.fix
    problem = details["msg"].removeprefix("Value error, ")
    if kind != "value_error" and not isinstance(details["input"], (dict, list)):
        problem += f", not {_value_shown(details['input'])}"
    return keys, problem, _fix_of(kind, context, keys)


def _unknown_key(model: type[BaseModel], keys: KeyPath) -> str:
    """Return the fix for a key that its table does not have. In TOML, a key below a [header] is the header's."""
    known = _known_keys(model, keys[:-1])
    if len(keys) > 1 and keys[-1] in _known_keys(model, ()) and closest(str(keys[-1]), known) is None:
        return _ABOVE.format(key=keys[-1])
    return did_you_mean(str(keys[-1]), known)


def _wrong_shape(model: type[BaseModel], keys: KeyPath, found: object, *, list_needed: bool) -> tuple[str, str]:
    """Return problem and fix where a table was written for a list of tables, a list for a table, or a value for one."""
    name = ".".join(str(key) for key in keys if isinstance(key, str))
    if list_needed and isinstance(found, dict):
        return (
            "one table, where a list of tables is needed",
            f"write [[{name}]], with double brackets, for each of them",
        )
    if not list_needed and isinstance(found, list):
        return "a list, where one table is needed", f"write [{name}] once, with single brackets"
    problem = f"must be a {'list of tables' if list_needed else 'table'}, not {_value_shown(found)}"
    if not list_needed and len(keys) > 1 and keys[-1] in _known_keys(model, ()):
        return problem, _ABOVE.format(key=keys[-1])
    if list_needed or isinstance(keys[-1], int):
        return problem, f"write {_header(model, keys)}"
    inner = _model_at(model, keys)
    needed = "" if inner is None else f", with keys of {', '.join(inner.model_fields)}"
    return problem, f"write a table: {keys[-1]} = {{ … }}{needed}"


def _header(model: type[BaseModel], keys: KeyPath) -> str | None:
    """Return how a list of tables is written, `[[cells]] with target and recipe`; None for another key."""
    inner = _model_at(model, keys)
    names = [key for key in keys if isinstance(key, str)]
    if inner is None or not names or not _is_list(model, keys):
        return None
    required = [name for name, one in inner.model_fields.items() if one.is_required()]
    return f"[[{'.'.join(names)}]]" + (f" with {' and '.join(required)}" if required else "")


def _value_shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_VALUE_LENGTH else shown[:_SHOWN_VALUE_LENGTH] + "…"


def _fix_of(kind: str, context: Mapping[str, Any], keys: KeyPath) -> str:
    """Return the fix for one of pydantic's types of error."""
    key = next((part for part in reversed(keys) if isinstance(part, str)), "key")
    return _FIXES.get(kind, "correct the value of {key}").format(key=key, **context)


def _known_keys(model: type[BaseModel], keys: KeyPath) -> list[str]:
    """Return the keys that a table at this path may have, according to models and to lists and maps of models."""
    return [field.alias or name for name, field in _deepest(model, keys).model_fields.items()]


def _model_at(model: type[BaseModel], keys: KeyPath) -> type[BaseModel] | None:
    """Return the model of the table, or of the list's or map's tables, at this path; None where there is none."""
    found = _deepest(model, keys)
    return None if found is model else found


def _deepest(model: type[BaseModel], keys: KeyPath) -> type[BaseModel]:
    for key in keys:
        if isinstance(key, int) or key not in model.model_fields:
            continue
        inner = _model_in(model.model_fields[key].annotation)
        if inner is not None:
            model = inner
    return model


def _is_list(model: type[BaseModel], keys: KeyPath) -> bool:
    """Return whether the last key that is no number is a list's."""
    *above, name = (key for key in keys if isinstance(key, str))
    fields = _deepest(model, tuple(above)).model_fields
    return name in fields and get_origin(fields[name].annotation) is list


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _model_in(argument)) is not None:
            return found
    return None
