"""The process that renders templates: limits, what it can see, and that it is one process for many conversations."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builders.oracle.transformers_text import rendered
from builders.runtime.generation import render_prompt
from builders.templates import ChatTemplateError, process, program, render_chat
from builders.templates.process import Engine
from devtools.bundles import make_bundle
from registry.bundle.folder import Bundle
from targets.errors import BuildError, BundleError, MeasurementError

HELLO = [{"role": "user", "content": 'Grüße \U0001f600 \n\t"x" </s>'}]
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(params=["jinja", "transformers"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.param


def say(template: str, engine: Engine) -> str:
    return render_chat(template, HELLO, {"bos_token": "<s>"}, engine=engine)


def process_id(engine: Engine) -> int:
    running = process._RENDERERS[engine]._process
    assert running is not None
    return running.pid


def test_one_process_renders_all(engine: Engine) -> None:
    template = "{{ bos_token }}{{ messages[0].content }}"
    assert say(template, engine) == "<s>" + HELLO[0]["content"]
    first = process_id(engine)
    with pytest.raises(ChatTemplateError, match="division by zero"):
        say("{{ 1 / 0 }}", engine)
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda number: say(f"{number} {template}", engine), range(20)))
    assert texts == [f"{number} <s>{HELLO[0]['content']}" for number in range(20)]
    assert process_id(engine) == first


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (ENDLESS, r"it was not rendered within 0\.5 s"),
        ("{{ '%999999999d' | format(1) }}", "it needs too much memory"),
        ("{{ [1] * 10 ** 9 }}", "it needs too much memory"),
        ("{{ 'ab' * 3000000 }}", "it writes 6000000 characters"),
    ],
)
def test_a_limit_ends_the_process_and_the_next_is_as_good(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, template: str, words: str
) -> None:
    say("{{ 1 }}", engine)
    monkeypatch.setattr(process, "SECONDS_LIMIT", 0.5 if template is ENDLESS else 60)
    with pytest.raises(ChatTemplateError, match=words) as ended:
        say(template, engine)
    assert ended.value.exhausted
    monkeypatch.setattr(process, "SECONDS_LIMIT", 60)
    assert say("{{ 1 }}", engine) == "1"


def test_memory_is_watched_from_outside_where_the_system_keeps_no_limit(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS: here the limit that the process sets itself is far away."""
    assert say("{{ 1 }}", engine) == "1"
    before = process_id(engine)
    has = process.resident_bytes(before)
    assert has is not None
    assert process.resident_bytes_by_ps(before) == pytest.approx(has, rel=0.1)
    monkeypatch.setattr(process._RENDERERS[engine], "_memory_limit", has + (64 << 20))
    with pytest.raises(ChatTemplateError, match="it needs too much memory") as caught:
        say("{% set kept = 'ab' * 100000000 %}" + ENDLESS, engine)
    assert caught.value.exhausted
    assert say("{{ 1 }}", engine) == "1"
    assert process_id(engine) != before
    assert process.resident_bytes(2**31 - 1) is None
    assert process.MEMORY_BYTES == program.MEMORY_BYTES


def test_a_process_that_was_killed_is_started_again(engine: Engine) -> None:
    say("{{ 1 }}", engine)
    os.kill(process_id(engine), signal.SIGKILL)
    os.waitid(os.P_PID, process_id(engine), os.WEXITED | os.WNOWAIT)
    assert say("{{ 2 }}", engine) == "2"


def test_a_fork_has_a_process_of_its_own() -> None:
    say("{{ 1 }}", "jinja")
    first = process_id("jinja")
    with process._RENDERERS["jinja"]._one_at_a_time:  # as another thread may have it
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(20)
                os._exit(0 if say("{{ 2 }}", "jinja") == "2" and process_id("jinja") != first else 1)
            finally:
                os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert say("{{ 3 }}", "jinja") == "3"
    assert process_id("jinja") == first


def test_packages_are_found_where_this_process_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process._RENDERERS["jinja"].close()
    monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path))
    say("{{ 1 }}", "jinja")
    assert str(tmp_path).encode() in Path(f"/proc/{process_id('jinja')}/environ").read_bytes()


def test_what_jinja_has_at_hand_is_kept_from_templates() -> None:
    for name in ("lipsum", "cycler", "joiner", "raise_exception", "strftime_now", "tojson"):
        with pytest.raises(ChatTemplateError):
            say(f"{{{{ {name}.__globals__.os.environ }}}}", "jinja")


def test_secrets_of_the_environment_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    process._RENDERERS["jinja"].close()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    say("{{ 1 }}", "jinja")
    assert b"secret" not in Path(f"/proc/{process_id('jinja')}/environ").read_bytes()


def test_a_python_without_jinja_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    process._RENDERERS["jinja"].close()
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(BuildError, match="does not start"):
        say("{{ 1 }}", "jinja")


def test_the_oracle_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = (("user", "Hello"),)
    assert rendered("{{ messages[0].content }}", {}, conversation) == "Hello"
    assert rendered("{{ 1 / 0 }}", {}, conversation) is None
    monkeypatch.setattr(process, "SECONDS_LIMIT", 0.5)
    with pytest.raises(MeasurementError, match=r"can't be rendered for .*Hello.* within"):
        rendered(ENDLESS, {}, conversation)


@pytest.mark.parametrize("raw", [None, b"\xff\xfe"])
def test_a_bundle_whose_template_can_not_be_read_is_reported(tmp_path: Path, raw: bytes | None) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    generation = bundle.manifest.generation.model_copy(update={"chat_template": "template.jinja"})
    named = Bundle(bundle.path, bundle.manifest.model_copy(update={"generation": generation}))
    if raw is not None:
        bundle.file("template.jinja").write_bytes(raw)
    with pytest.raises(BundleError, match=r"the chat template template\.jinja can't be read"):
        render_prompt(named, "Hello")


def test_tools_are_rendered_as_transformers_does_and_can_be_left_out() -> None:
    template = "{% if tools is not none %}{{ tools | tojson }}{% endif %}{{ messages[0]['content'] }}"
    hello, tools = [{"role": "user", "content": "Hello"}], [{"type": "function", "name": "Köln"}]
    for given in (None, tools):
        expected = render_chat(template, hello, {}, tools=given, engine="transformers")
        assert render_chat(template, hello, {}, tools=given) == expected
    assert render_chat("{{ tools is defined }}", hello, {}, tools="undefined") == "False"
