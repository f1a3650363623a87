"""GitHub's expressions, `${{ … }}`, as far as our workflows use them: the rest is refused, not guessed.

The grammar: literals, contexts (`needs.plan.outputs.matrix`), `== != ! && ||`, parentheses, and the functions contains,
fromJSON, always, success, failure and cancelled. Source: GitHub's page "Evaluate expressions in workflows and actions".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(r"\s*(?:(?P<op>==|!=|&&|\|\||[!().\[\],])|'(?P<text>(?:[^']|'')*)'|(?P<word>[A-Za-z_][\w-]*|\d+))")
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)

Context = Mapping[str, Any]


def filled(value: Any, context: Context) -> Any:
    """Return a value of a workflow with its expressions replaced; one that is all of a text keeps its type."""
    if isinstance(value, dict):
        return {key: filled(one, context) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, context) for one in value]
    if not isinstance(value, str):
        return value
    if whole := _EXPRESSION.fullmatch(value.strip()):
        return evaluate(whole[1], context)
    return _EXPRESSION.sub(lambda match: _text(evaluate(match[1], context)), value)


def condition(text: str | bool | None, context: Context) -> bool:
    """Return whether an `if:` holds. Without a function that looks at the status, success() is asked for as well."""
    if isinstance(text, bool):
        return text
    text = _EXPRESSION.sub(lambda match: match[1], text or "")
    asks = re.search(r"\b(always|success|failure|cancelled)\(\)", text)
    return bool((asks or context["success"]) and (not text.strip() or evaluate(text, context)))


def evaluate(text: str, context: Context) -> Any:
    """Return the value of an expression."""
    parser = _Parser(text, context)
    value = parser.either()
    if parser.rest():
        raise ValueError(f"{text!r}: {parser.rest()!r} is not understood")
    return value


class _Parser:
    def __init__(self, text: str, context: Context) -> None:
        self._context = context
        self._tokens: list[tuple[str, str]] = []
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise ValueError(f"{text!r}: {text[position:]!r} is not understood")
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()

    def rest(self) -> str:
        return " ".join(text for _, text in self._tokens)

    def either(self) -> Any:
        value = self._both()
        while self._took("||"):
            other = self._both()
            value = value or other
        return value

    def _both(self) -> Any:
        value = self._compared()
        while self._took("&&"):
            other = self._compared()
            value = value and other
        return value

    def _compared(self) -> Any:
        value = self._single()
        while self._tokens and self._tokens[0] in {("op", "=="), ("op", "!=")}:
            equal = self._tokens.pop(0)[1] == "=="
            value = (value == self._single()) is equal
        return value

    def _single(self) -> Any:
        if self._took("!"):
            return not self._single()
        if self._took("("):
            value = self.either()
            self._require(")")
            return value
        kind, text = self._tokens.pop(0)
        if kind == "text":
            return text.replace("''", "'")
        if kind == "op":
            raise ValueError(f"{text!r} is not understood here")
        if text.isdigit():
            return int(text)
        if text in {"true", "false", "null"}:
            return json.loads(text)
        return self._called(text) if self._took("(") else self._looked_up(text)

    def _called(self, name: str) -> Any:
        arguments = []
        while not self._took(")"):
            arguments.append(self.either())
            self._took(",")
        functions: dict[str, Callable[..., Any]] = {
            "contains": lambda where, what: what in where,
            "fromJSON": json.loads,
            "always": lambda: True,
            "success": lambda: self._context["success"],
            "failure": lambda: not self._context["success"],
            "cancelled": lambda: False,
        }
        return functions[name](*arguments)

    def _looked_up(self, name: str) -> Any:
        if name not in self._context:
            raise ValueError(f"there is no context {name!r}")
        value = self._context[name]
        while self._tokens and self._tokens[0] in {("op", "."), ("op", "[")}:
            if self._tokens.pop(0)[1] == ".":
                key = self._tokens.pop(0)[1]
            else:
                key = self.either()
                self._require("]")
            value = "" if value in ("", None) else value.get(key, "")
        return value

    def _took(self, operator: str) -> bool:
        if self._tokens and self._tokens[0] == ("op", operator):
            self._tokens.pop(0)
            return True
        return False

    def _require(self, operator: str) -> None:
        if not self._took(operator):
            raise ValueError(f"{operator!r} is missing before {self.rest()!r}")


def _text(value: Any) -> str:
    """Return a value as GitHub writes it into a text."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
