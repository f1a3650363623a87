"""What the command line promises: quick help, exit codes, clear refusals, nothing heavy without need."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

import phipack as public
from devtools.servers import on, serving
from phipack.reference import reference
from tests.support.checkpoints import write_tiny
from tests.support.command_line import PROJECT, Run, command_environment, in_the_foreground, result_of

HEAVY = ("torch", "onnx", "onnxruntime", "coremltools", "mlflow", "llama_cpp", "transformers", "numpy", "gguf", "boto3")


def test_help_imports_nothing_but_click() -> None:
    """So that it answers within 300 ms; `benchmarks/start.py` measures it."""
    program = (
        "import sys; from phipack.__main__ import main; main(['--help']);"
        "print(*{name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    ours = {"phipack", "targets", "click", "__main__"}
    assert {name for name in done.stderr.split() if not name.startswith("_")} <= ours


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["targets", "ls"],
        ["fit", "phi-3-mini-4k-instruct", "--target", "iphone-15"],
        ["fetch", "bundle", "-o", "out"],
    ],
)
def test_the_base_install_needs_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    """With every heavy package made unimportable, as in an install without extras."""
    write_bundle(tmp_path / "bundle")
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in HEAVY)
    program = f"import sys; {blocked}; from phipack.__main__ import main; sys.exit(main({arguments!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["build", "checkpoint", "--recipe", "gguf-f16", "-o", "out"], "build"),
        (["history", "tiny", "--tracking-uri", "http://127.0.0.1:9"], "registry"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(tmp_path: Path, arguments: list[str], extra: str) -> None:
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in HEAVY)
    program = f"import sys; {blocked}; from phipack.__main__ import main; sys.exit(main({arguments!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"[{extra}]" in done.stderr
    assert "fix: pip install " in done.stderr


def write_bundle(folder: Path) -> None:
    """A bundle made by hand: fetch looks at bytes, not at what they mean."""
    from registry.bundle.folder import file_entries, seal
    from registry.bundle.manifest import GenerationEntry, Manifest, ModelEntry, RecipeEntry

    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"weights")
    model = ModelEntry(
        architecture="Phi3ForCausalLM",
        parameters=1,
        layers=1,
        hidden_size=1,
        kv_heads=1,
        head_dim=1,
        vocabulary_size=1,
        context_length=1,
        exact_context_length=1,
    )
    generation = GenerationEntry(stop_token_ids=[], bos_token_id=None, pad_token_id=None, chat_template=None)
    seal(
        folder,
        Manifest(
            schema="phipack.bundle/1",
            model=model,
            recipe=RecipeEntry(name="gguf-f16", format="gguf", weights=[], notes=[]),
            checkpoint="sha256:" + "0" * 64,
            generation=generation,
            tools={},
            files=file_entries(folder),
        ),
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["targets", "show", "iphone-14-por"], 1, ["iphone-14-por", "did you mean 'iphone-14-pro'"]),
        (["fit", "phi-3-mini-4k-instrukt", "--target", "iphone-15"], 1, ["did you mean 'phi-3-mini-4k-instruct'"]),
        (["build", "checkpoint", "--recipe", "gguf-q4_k_n", "-o", "out"], 1, ["did you mean 'gguf-q4_k_m'"]),
        (["build", "nowhere", "--recipe", "gguf-f16", "-o", "out"], 1, ["nowhere", "is not a folder"]),
        (["build", "checkpoint", "-o", "out"], 2, ["--recipe"]),
        (["fetch", "x", "-o", "out", "--runtime", "onnxruntme=1"], 1, ["did you mean 'onnxruntime'"]),
        (["fetch", "x", "-o", "out", "--runtime", "onnxruntime"], 1, ["write onnxruntime=VERSION"]),
        (["release", "nowhere.toml"], 1, ["nowhere.toml"]),
        (["promote", "nobody:1.0.0", "--to", "production"], 1, ["nobody"]),
        (["fetch", "nobody:1.0.0@iphone-15", "-o", "out"], 1, ["nobody"]),
        (["fetch", "not a reference", "-o", "out"], 1, ["not a reference"]),
        (["inspect", "nowhere"], 1, ["nowhere"]),
        (["validate", "nowhere", "--against", "checkpoint"], 1, ["nowhere"]),
        (["validate", "nowhere", "--against", "checkpoint", "--gate", "kl<3"], 2, ["kl<3"]),
    ],
)
def test_wrong_words_get_a_sentence_and_leave_nothing(
    phipack: Run, tmp_path: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    write_tiny(tmp_path / "checkpoint")
    done = phipack(*arguments, expect=code)
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_wrong_project_file_is_reported_by_file_line_and_key(phipack: Run, tmp_path: Path) -> None:
    (tmp_path / "phipack.toml").write_text(PROJECT.replace("gguf-q8_0", "gguf-q8-0"), "utf-8")
    done = phipack("release", expect=1)
    line = PROJECT.splitlines().index('recipe = "gguf-q8_0"') + 1
    assert f"phipack.toml:{line}:" in done.stderr
    assert "recipe" in done.stderr
    assert "gguf-q8_0" in done.stderr


def test_fit_names_what_to_take_for_what_a_format_cannot_run(phipack: Run, tmp_path: Path) -> None:
    write_tiny(tmp_path / "small", family="phi3small")
    instead = "use one of onnx-fp16, onnx-int8, onnx-int4, coreml-fp16, coreml-int4, coreml-palettized4"
    assert instead in phipack("fit", "./small", "--target", "iphone-15").stdout
    assert instead in phipack("build", "small", "--recipe", "gguf-q8_0", "-o", "out", expect=1).stderr


def test_heads_that_llama_cpp_does_not_load_are_refused_before_a_build(phipack: Run, tmp_path: Path) -> None:
    write_tiny(tmp_path / "wide", head_dim=32)
    problem, fix = (
        "loads no model whose heads together (4 of 32 elements)",
        "use one of onnx-fp16, onnx-int8, onnx-int4, coreml-",
    )
    shown = phipack("fit", "./wide", "--target", "iphone-15").stdout
    refused = phipack("build", "wide", "--recipe", "gguf-q8_0", "-o", "out", expect=1).stderr
    for words in (problem, fix):
        assert words in shown
        assert words in refused
    assert not (tmp_path / "out").exists()


def test_fit_goes_on_where_one_converter_refuses_the_checkpoint(phipack: Run, tmp_path: Path) -> None:
    tokenizer = write_tiny(tmp_path / "checkpoint") / "tokenizer.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_bytes()) | {"normalizer": {"type": "NFC"}}), "utf-8")
    rows = result_of(phipack("--json", "fit", "./checkpoint", "--target", "iphone-15"))["recipes"]
    fits = {row["recipe"]: row for row in rows}
    assert not fits["gguf-q8_0"]["fits"]
    assert "no normalizer" in fits["gguf-q8_0"]["reason"]
    assert fits["onnx-int4"]["fits"]
    assert fits["onnx-int4"]["bundle_bytes"]


def test_generate_says_on_standard_error_that_llama_cpp_is_opened_again(phipack: Run, tmp_path: Path) -> None:
    write_tiny(tmp_path / "checkpoint", original_context=256, context=1024)
    phipack("build", "checkpoint", "--recipe", "gguf-f16", "--context", "512", "-o", "out")
    done = phipack("generate", "out", "x" * 300, "--raw", "--max-tokens", "1")
    assert "llama.cpp is opened again, with a context of 512" in done.stderr
    assert "opened again" not in done.stdout
    assert phipack("generate", "out", "x" * 100, "--raw", "--max-tokens", "1").stderr == ""


def _interruptible(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start phipack as a shell does in the foreground."""
    return subprocess.Popen(
        [sys.executable, "-m", "phipack", *arguments],
        cwd=cwd,
        env=command_environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=in_the_foreground,  # noqa: PLW1509 - one call, no locks
    )


def _build_by(program: str, recipe: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of Python's that runs phipack, as a shell does in the foreground."""
    return subprocess.run(
        [sys.executable, "-c", program, "build", "checkpoint", "--recipe", recipe, "-o", "out"],
        cwd=cwd,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=in_the_foreground,
    )


# phipack, which gets a signal as it prints that it begins a step, and goes on with it when the builds have heard of it.
_INTERRUPTED = """
import os, signal, sys, threading
from builders.checkpoint.lockstep import Lockstep

heard, cancel = threading.Event(), Lockstep.cancel

def cancelled(lockstep):
    cancel(lockstep)
    heard.set()

class Interrupting:
    def __getattr__(self, name):
        return getattr(sys.__stderr__, name)

    def write(self, text):
        sys.__stderr__.write(text)
        if "gguf-f16: STEP" in text:
            os.kill(os.getpid(), signal.NUMBER)
            heard.wait(60)
        return len(text)

Lockstep.cancel, sys.stderr = cancelled, Interrupting()
from phipack.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.every_case), signal.SIGTERM])
@pytest.mark.parametrize("step", ["write", "hash"])  # in the second, nothing is left to read
def test_interrupt_in_the_middle_of_a_build_leaves_nothing(tmp_path: Path, number: signal.Signals, step: str) -> None:
    write_tiny(tmp_path / "checkpoint")
    program = _INTERRUPTED.replace("NUMBER", number.name).replace("STEP", step)
    done = _build_by(program, "gguf-f16", tmp_path)
    assert done.returncode == 130, done.stderr
    assert "interrupted" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_interrupt_in_the_middle_of_a_fetch_leaves_nothing(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    sending, done = threading.Event(), threading.Event()

    def hang(handler: SimpleHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "7")
        handler.end_headers()
        handler.wfile.write(b"wei")
        sending.set()
        done.wait(60)

    with serving(tmp_path / "bundle", on("/model.gguf", hang)) as url:
        with _interruptible("fetch", url, "-o", "out", cwd=tmp_path) as process:
            assert sending.wait(30)
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            rest = process.stderr.read()
        done.set()
    assert process.returncode == 130, rest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


@pytest.mark.parametrize(
    "recipe", ["gguf-f16", *(pytest.param(name, marks=pytest.mark.every_case) for name in ("onnx-fp16", "coreml-fp16"))]
)
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, recipe: str) -> None:
    """With a bound on file sizes, which a process meets as it would a full disk: in the middle of a write."""
    write_tiny(tmp_path / "checkpoint")
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from phipack.__main__ import main; sys.exit(main())"
    )
    done = _build_by(program, recipe, tmp_path)
    assert done.returncode == 1, done.stderr
    assert "free space" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_the_reference_page_is_what_the_commands_say() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
    assert page.read_text("utf-8") == reference(), "run make docs"


def test_every_public_name_is_there() -> None:
    for name in dir(public):
        assert getattr(public, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = public.nothing
