"""The other process: `python -P program.py jinja|transformers`. Run by path; nothing of phipack's is imported.

    asked     one line of JSON: {"template", "messages", "special_tokens", "tools", "add_generation_prompt"}
    answered  one line of JSON: {"text"}, or {"problem", "line", "why": "refused" | "failed" | "memory"}

Its first line, unasked, is `{}`. "refused": the template's own `raise_exception`.

`environment` is that of transformers' `apply_chat_template` (transformers/utils/chat_template_utils.py, 5.24); tests
compare the two. Where the system enforces it (Linux; not macOS, where process.py watches it from outside), the process
gets `MEMORY_BYTES` beyond what it has when it starts; everywhere, a limit on processor time, for when nobody waits for
the answer any more.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils

MEMORY_BYTES = 512 << 20
TEXT_LIMIT = 4 << 20  # characters of a rendered conversation
CPU_SECONDS = 30
_PROBLEM_LIMIT = 300
_NAME = "<template>"  # what jinja calls a template that was given as a text

Render = Callable[[dict[str, Any]], str]


class Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`: what is within is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - as jinja declares it

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        """Parse the block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_rendered"), [], [], body).set_lineno(line)

    def _rendered(self, caller: Callable[[], str]) -> str:
        return caller()


class Namespace(jinja2.utils.Namespace):
    """Refuses names that begin with an underscore."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *rest = args
        content = dict(*rest, **values)
        for name in content:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, content)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class Dict:
    """`dict(…)` and `dict.fromkeys(…)`, and nothing else of it."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        """Make one."""
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Make one with equal values."""
        return dict.fromkeys(*args)


def environment() -> jinja2.Environment:
    """Return the environment of a chat template."""
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": Dict(),
        "namespace": Namespace,
    }
    return made


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005 - the machine's own day, as transformers has it


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace can't have the attribute {name!r}")


@lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    return environment().from_string(template)


def render_by_jinja(asked: dict[str, Any]) -> str:
    """Render a conversation in our own copy of transformers' environment."""
    tools = {} if asked["tools"] == "undefined" else {"tools": asked["tools"]}
    moment = asked["moment"]
    clock = {} if moment is None else {"strftime_now": datetime.fromisoformat(moment).strftime}
    return _compiled(asked["template"]).render(
        messages=asked["messages"],
        **tools,
        **clock,
        documents=None,
        add_generation_prompt=asked["add_generation_prompt"],
        **asked["special_tokens"],
    )


def _by_transformers() -> Render:
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(asked: dict[str, Any]) -> str:
        rendered, _ = render_jinja_template(
            [asked["messages"]],
            tools=asked["tools"],
            chat_template=asked["template"],
            add_generation_prompt=asked["add_generation_prompt"],
            **asked["special_tokens"],
        )
        return str(rendered[0])

    return render


def answer(render: Render, asked: dict[str, Any]) -> dict[str, Any]:
    """Render, and describe whatever the template raises: it is the template's own failure."""
    try:
        text = render(asked)
    except MemoryError:
        return {"problem": "it needs too much memory", "line": None, "why": "memory"}
    except Exception as error:  # noqa: BLE001 - jinja passes on what Python raises, ZeroDivisionError too
        problem = f"{type(error).__name__}: {str(error)[:_PROBLEM_LIMIT]}"
        why = "refused" if type(error) is jinja2.TemplateError else "failed"
        return {"problem": problem, "line": _line(error), "why": why}
    if len(text) > TEXT_LIMIT:
        return {"problem": f"it writes {len(text)} characters for one conversation", "line": None, "why": "memory"}
    return {"text": text}


def _line(error: BaseException) -> int | None:
    """Return the template's line on which an error was raised, the innermost one."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    found, place = None, error.__traceback__
    while place is not None:
        if place.tb_frame.f_code.co_filename == _NAME:
            found = place.tb_lineno
        place = place.tb_next
    return found


def _limit_memory() -> None:
    with suppress(ImportError, AttributeError, ValueError, OSError):  # a system without limits, or that refuses one
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        with open("/proc/self/statm", encoding="ascii") as stream:  # noqa: PTH123 - pathlib is slower to import
            has = int(stream.read().split()[0]) * resource.getpagesize()
        limit = has + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_time() -> None:
    with suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + CPU_SECONDS, hard))


def main(engine: str) -> None:
    """Answer until the input ends. What a template or a library prints goes nowhere."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever waits
    answers = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
    render = _by_transformers() if engine == "transformers" else render_by_jinja
    _limit_memory()
    _send(answers, {})
    for line in sys.stdin.buffer:
        _limit_time()
        _send(answers, answer(render, json.loads(line)))


def _send(answers: Any, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
