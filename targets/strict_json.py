"""Reads JSON that others wrote: nesting, integers and non-numbers are bounded, and every fault is one kind of error.

Python's own `json` raises `RecursionError` at a depth that depends on the caller's stack, refuses integers from 4,301
digits on, and accepts shorter ones that no float, file size or database holds, as well as NaN. What `parse_json`
returns can be walked, printed, compared and written again: models of ours by `canonical_json`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

DEPTH_LIMIT = 100
LARGEST_INTEGER = (1 << 63) - 1  # of our own formats
_DIGITS_LIMIT = 40  # of files of others: transformers writes 10**30 as "no limit"
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_KEY = re.compile(r'"([^"\\]{1,80})"\s*:[\s\[]*\Z')
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NOT_BRACKETS = bytes(set(range(256)) - _STEPS.keys())

Model = TypeVar("Model", bound="BaseModel")


class MalformedJsonError(ValueError):
    """Bytes that are not JSON, exceed a bound, or do not have the form of a model. Its text says what and where."""


def parse_json(
    raw: bytes | str, *, ours: bool = True, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """Return the value of a JSON text.

    Args:
        raw: UTF-8 (or UTF-16 and UTF-32, as `json.loads`).
        ours: one of our own formats: integers of 64 bits, no NaN, no infinity. Files of others may have both.
        pairs: called with the pairs of each object, in place of making a `dict`. What it raises passes.

    Raises:
        MalformedJsonError: not JSON, nested deeper than `DEPTH_LIMIT`, or a number beyond the bound.
    """
    try:
        encoded = raw.encode() if isinstance(raw, str) else raw
        encoding = json.detect_encoding(encoded)
        text = encoded.decode(encoding)
        _require_depth(encoded if encoding.startswith("utf-8") else text.encode())
        value = json.loads(
            text,
            object_pairs_hook=pairs,
            parse_int=_own_integer if ours else _integer,
            parse_float=_finite if ours else None,
            parse_constant=_refuse_constant if ours else None,
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False, default=str).encode()  # halves of a letter can't be written
    except UnicodeDecodeError as error:
        raise MalformedJsonError(f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise MalformedJsonError("half of a surrogate pair, which stands for no letter") from error
    except json.JSONDecodeError as error:
        raise MalformedJsonError(str(error)) from error
    except _RefusedNumberError as error:
        raise error.located(text) from error
    except RecursionError as error:
        raise MalformedJsonError("it is nested too deeply to be read here") from error
    return value


def parse_model(kind: type[Model], raw: bytes | str) -> Model:
    """Return a model from a JSON text of our own formats.

    Raises:
        MalformedJsonError: as `parse_json`; or it does not have the form of the model: `files.0.bytes: …`.
    """
    from pydantic import ValidationError  # here, as phipack --help needs nothing but click

    content = parse_json(raw)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise MalformedJsonError(f"{'.'.join(map(str, first['loc'])) or 'document'}: {first['msg']}") from error


def _require_depth(raw: bytes) -> None:
    """Raise `MalformedJsonError` where arrays and objects are nested too deeply. Linear, and without a stack."""
    if raw.count(b"[") + raw.count(b"{") <= DEPTH_LIMIT:
        return
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > DEPTH_LIMIT:
        raise MalformedJsonError(f"it is nested deeper than {DEPTH_LIMIT} levels")


class _RefusedNumberError(Exception):
    """A number that is not read: `literal` as it is written, `why` as a clause."""

    def __init__(self, literal: str, why: str) -> None:
        super().__init__(literal)
        self.literal, self.why = literal, why

    def located(self, text: str) -> MalformedJsonError:
        """Return the error that names the key before it, where there is one."""
        place = text.find(self.literal)
        key = _KEY.search(text, max(0, place - 200), place)
        return MalformedJsonError(f"{key[1]}: {self.why}" if key else self.why)


def _own_integer(digits: str) -> int:
    number = _integer(digits)
    if abs(number) > LARGEST_INTEGER:
        raise _RefusedNumberError(digits, f"an integer of {len(digits)} digits; the limit is 64 bits")
    return number


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS_LIMIT:
        raise _RefusedNumberError(digits, f"an integer of {len(digits)} digits; the limit is {_DIGITS_LIMIT}")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _RefusedNumberError(text, "a number beyond the range of 64 bits")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedNumberError(name, f"{name} is not a number of JSON")


def canonical_json(model: BaseModel) -> str:
    """Return a model's one JSON form, whose digest may name it: sorted keys, two spaces, UTF-8, a final newline."""
    content = json.loads(model.model_dump_json(by_alias=True))
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
