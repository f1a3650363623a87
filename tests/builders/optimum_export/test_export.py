"""optimum's export as the way out for architectures that our writers don't know: run, compared, or refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from builders.checkpoint import open_checkpoint
from builders.optimum_export import export, optimum_environment, python_arguments, quiet_environment, run
from builders.optimum_export.verification import verify_export
from devtools import saved_configs
from targets.errors import BuildError, CheckpointError, UnsupportedModelError
from targets.progress import Event, Notice, Step, silent
from tests.support.checkpoints import write_json, write_tiny, write_tokenizer
from tests.support.exported import exported_logits
from tests.support.transformers_4 import saved_config
from tests.support.transformers_5 import SHAPES, v4_config, v5_config
from tests.support.transformers_models import transformers_logits

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|transformers|onnx|google).*")
TOKENS = np.random.default_rng(0).integers(0, 300, 40)


def _unknown(folder: Path) -> Path:
    """Write a tiny GPT-NeoX as transformers 5 saves it: phipack has no writer for it."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPTNeoXConfig(
        vocab_size=320,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        rotary_emb_base=300,
        rotary_pct=0.5,
        initializer_range=0.2,
    )
    transformers.GPTNeoXForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def neox(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Event]]:
    """The tiny GPT-NeoX, its export, and what was reported."""
    place, events = tmp_path_factory.mktemp("neox"), list[Event]()
    folder = _unknown(place / "checkpoint")
    assert "model.onnx" in export(folder, place / "exported", on_progress=events.append)
    return folder, place / "exported", events


def test_an_architecture_without_a_writer_is_exported(neox: tuple[Path, Path, list[Event]]) -> None:
    import torch
    import transformers

    folder, exported, events = neox
    with pytest.raises(UnsupportedModelError, match=r"'GPTNeoXForCausalLM' is not supported") as refused:
        open_checkpoint(folder)
    assert "phipack export" in (refused.value.fix or "")
    assert events[-2:] == [Step("export", 1, 2), Step("export", 2, 2)]
    assert not [event for event in events if isinstance(event, Notice) and "not compared" in event.text]
    with torch.no_grad():
        ids = torch.from_numpy(TOKENS[None])
        expected = transformers.GPTNeoXForCausalLM.from_pretrained(folder)(ids).logits[0].numpy()
    np.testing.assert_allclose(exported_logits(exported, TOKENS), expected, atol=1e-4)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (exported / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.every_case
def test_a_llama_of_transformers_5_is_exported_with_its_own_rope(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint", SHAPES["llama"])
    write_json(folder / "config.json", v5_config("llama"))
    export(folder, tmp_path / "exported")
    logits = exported_logits(tmp_path / "exported", TOKENS)
    np.testing.assert_allclose(logits, transformers_logits(folder, TOKENS), atol=1e-4)


def test_a_graph_that_answers_otherwise_is_refused(neox: tuple[Path, Path, list[Event]], tmp_path: Path) -> None:
    checkpoint, exported, _ = neox
    another = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    config = json.loads((another / "config.json").read_bytes())
    assert config["rope_parameters"]["rope_theta"] == 300
    config["rope_parameters"]["rope_theta"] = 10000.0  # what a reader that skips `rope_parameters` takes
    write_json(another / "config.json", config)
    verify_export(checkpoint, exported, silent)
    with pytest.raises(UnsupportedModelError, match="optimum's graph does not answer as the model: a logit differs by"):
        verify_export(another, exported, silent)


def test_a_model_that_transformers_5_cannot_load_is_said(neox: tuple[Path, Path, list[Event]], tmp_path: Path) -> None:
    events: list[Event] = []
    write_json(tmp_path / "config.json", {"architectures": ["NobodysForCausalLM"], "model_type": "nobodys"})
    verify_export(tmp_path, neox[1], events.append)
    assert [type(event) for event in events] == [Notice]
    assert "was not compared with its model: transformers 5" in str(events)


def test_what_is_no_graph_is_refused(neox: tuple[Path, Path, list[Event]], tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"optimum wrote no model\.onnx"):
        verify_export(neox[0], tmp_path, silent)
    (tmp_path / "model.onnx").write_bytes((neox[1] / "model.onnx").read_bytes()[:-1000])
    with pytest.raises(BuildError, match="onnxruntime can't open the graph"):
        verify_export(neox[0], tmp_path, silent)


@pytest.mark.every_case
def test_what_nobody_knows_is_refused(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "checkpoint")
    write_json(folder / "config.json", {"architectures": ["NobodysForCausalLM"], "model_type": "nobodys"})
    with pytest.raises(UnsupportedModelError, match=r"optimum can't export it: .*nobodys"):
        export(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_killed_export_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal\nprint('halfway', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n", "utf-8"
    )
    monkeypatch.setattr(run, "_SCRIPT", script)
    with pytest.raises(BuildError, match=r"optimum was ended by signal 9 while it exported .*: halfway") as refused:
        export(write_tiny(tmp_path / "checkpoint"), tmp_path / "out")
    assert "memory" in refused.value.fix
    assert not (tmp_path / "out").exists()


def test_pickles_and_no_checkpoint_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        export(tmp_path, tmp_path / "out")
    write_json(tmp_path / "config.json", [])
    with pytest.raises(CheckpointError, match=r"config\.json: a JSON object was expected"):
        export(tmp_path, tmp_path / "out")
    write_json(tmp_path / "config.json", {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox"})
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pickled"):
        export(tmp_path, tmp_path / "out")


@pytest.mark.every_case
def test_its_transformers_4_saves_the_recorded_configs(tmp_path: Path) -> None:
    for name in SHAPES:
        (tmp_path / "from").mkdir(exist_ok=True)
        write_json(tmp_path / "from" / f"{name}.json", v4_config(name))
    command = [*python_arguments(optimum_environment()), str(Path(saved_configs.__file__))]
    subprocess.run([*command, "from", "to"], cwd=tmp_path, env=quiet_environment(), check=True, capture_output=True)
    for name in SHAPES:
        assert json.loads((tmp_path / "to" / f"{name}.json").read_bytes()) == saved_config(name)
