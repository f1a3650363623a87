"""`phipack measure` and `phipack devices ls`: a real GGUF bundle on the tests' phone, run by llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import Checkpoint
from builders.devices.kl_base import compared
from builders.devices.reference import reference_answers
from builders.reference import FloatReference
from builders.runtime.sessions import open_session
from builders.validation.compare import divergence, log_softmax
from phipack.__main__ import main
from phipack.json_form.commands import result_schema
from registry.bundle.folder import Bundle
from targets.recipes import recipe_named
from tests.support.phone import device
from tests.support.phone.device import Phone

RUNTIME = Path(device.__file__).parent / "runtimes" / "llama_cpp"


@pytest.fixture(scope="module")
def bundle(tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build(tiny, recipe_named("gguf-q8_0"), tmp_path_factory.mktemp("built") / "q8")


def expected_kl(bundle: Bundle, checkpoint: Checkpoint, tokens: np.ndarray) -> float:
    """The mean over the second half of each sequence, without its last position, all in this process."""
    reference, found = FloatReference(checkpoint), []
    length = tokens.shape[1]
    part = slice(length // 2, length - 1)
    with open_session(bundle) as session:
        for row, states in zip(tokens, reference.hidden(tokens), strict=True):
            log_q = log_softmax(session.score(row)[part])
            found.append(divergence(log_softmax(reference.logits(states)[part]), log_q))
    return float(np.concatenate(found).mean())


def called(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Run a command in this process, hold what it prints to its schema, and return its result."""
    capfd.readouterr()
    code = main([*arguments, "--json"])
    document = json.loads(capfd.readouterr().out)
    assert code == 0, document
    jsonschema.validate(document["result"], result_schema(document["command"]))
    return document["result"]


def test_devices_are_listed(phone: Phone, capfd: pytest.CaptureFixture[str]) -> None:
    providers = called(capfd, "devices", "ls")["providers"]
    listed = next(one for one in providers if one["scheme"] == "adb")
    assert [(one["address"], one["state"]) for one in listed["devices"]] == [(f"adb:{phone.serial}", "ready")]
    assert main(["devices", "ls"]) == 0
    assert "galaxy-s24" in capfd.readouterr().out


def test_answers_on_the_phone_are_compared_with_the_checkpoints(
    phone: Phone, bundle: Bundle, tiny: Checkpoint, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def measured(*options: str) -> Any:
        short = ("--repeat", "1", "--prompt-tokens", "32", "--decode-tokens", "8", "--runtime", str(RUNTIME))
        return called(capfd, "measure", str(bundle.path), "--device", f"adb:{phone.serial}", *short, *options)

    out = tmp_path / "measurement.json"
    found = measured("--against", str(tiny.path), "-o", str(out), "--keep")
    answers = reference_answers(bundle, tiny)
    sequences, length = answers.tokens.shape
    assert sequences * compared(length) >= 256
    assert found["settings"]["kl_tokens"] == sequences * compared(length)
    # The base file has steps of 0.00024 nat, and six digits are printed.
    kl = found["figures"]["device_kl_mean"]["value"]
    assert kl == pytest.approx(expected_kl(bundle, tiny, answers.tokens), abs=2e-5)
    assert 0 < kl < 0.01
    assert found["figures"]["device_decode_tokens_per_second"]["value"] > 10
    assert found["figures"]["device_peak_memory_bytes"]["value"] > 20 << 20  # Python and llama.cpp
    assert found["bundle"] == bundle.digest
    assert found["weights_bytes"] == bundle.file("model.gguf").stat().st_size
    assert json.loads(out.read_text()) == found
    assert [name for name in phone.files() if name.endswith("model.gguf")]
    assert main(["measure", str(bundle.path), "--device", "adb:nobody", "--runtime", str(RUNTIME)]) == 4
    assert "nobody: no such phone is connected" in capfd.readouterr().err
    (phone.root / "broken_kernel").touch()
    broken = measured("--against", str(tiny.path))
    assert broken["figures"]["device_kl_mean"]["value"] > 10 * kl
    assert phone.files() == []
