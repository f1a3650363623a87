"""Every form of folder: a bundle answers as transformers does with it, and the oracle raises no false alarm.

`make test` builds each folder in one format, such that every form meets every format; `make test-all` (`CASES=all`) in
all three.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.onnx.tokenizer_notes import RENDERS_OTHERWISE
from builders.oracle import ask_oracle, check_bundle
from builders.oracle.transformers_text import text_truth
from builders.reference import FloatReference
from builders.runtime.generation import render_prompt
from builders.runtime.sessions import open_session
from builders.runtime.text_engines import open_runtime_text
from builders.tokenizer import read_bundled_tokenizer
from builders.validation.answers import QUICK, answer_built_in
from builders.validation.behaviour.suite import check_behaviour
from registry.bundle.folder import Bundle
from targets.recipes import recipe_named
from tests.support.cases import EVERY_CASE
from tests.support.mutants import Sound, subject_of
from tests.support.parity import FP16_TOLERANCE, some_tokens
from tests.support.zoo import AXES, EDGE, WINDOW, Specimen, specimens, write_specimen

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(torch|transformers|onnx|google|coremltools).*")
PROMPT = 'Grüße aus "Köln" & <b>, the end'
TEXTS = ("", "the then there", " in  on\n\n\tnaive café 日本語", "a<|end|> b<|user|>\nx<|endoftext|>", "<|end|><|end|>")
SHORT, LONG = min(EDGE, WINDOW) - 4, max(EDGE, WINDOW) + 12


@dataclass(frozen=True)
class Inmate:
    """A folder, and what transformers says of it."""

    specimen: Specimen
    checkpoint: Checkpoint
    tokenizer: Any
    model: Any

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return self.model(torch.from_numpy(tokens)[None]).logits[0].numpy()


@pytest.fixture(scope="module", params=specimens(), ids=lambda one: one.name)
def inmate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Inmate:
    import torch
    import transformers

    place = tmp_path_factory.mktemp("zoo")
    specimen: Specimen = request.param
    folder = write_specimen(place / "checkpoint", specimen)
    readable = folder
    if specimen.rope == "su":  # transformers 5.24 can't open it, and 4.57 reads the two names alike
        readable = write_specimen(place / "longrope", replace(specimen, rope="longrope"))
    model = transformers.AutoModelForCausalLM.from_pretrained(readable, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(readable)
    return Inmate(specimen, open_checkpoint(folder), tokenizer, model)


def test_the_zoo_covers_every_pair_of_forms() -> None:
    shown = specimens()
    assert len(shown) <= 24
    for one, other in itertools.combinations(AXES, 2):
        seen = {(getattr(each, one), getattr(each, other)) for each in shown}
        possible = set(itertools.product(AXES[one], AXES[other]))
        assert seen == (possible - {("su", "5")} if (one, other) == ("rope", "writer") else possible)


def test_a_format_answers_as_transformers(inmate: Inmate, tmp_path: Path) -> None:
    checkpoint = inmate.checkpoint
    agreement = ask_oracle(checkpoint)  # no false alarm
    chat = inmate.tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}], tokenize=False, add_generation_prompt=True
    )
    for recipe in AXES["recipe"] if EVERY_CASE else (inmate.specimen.recipe,):
        bundle = build(checkpoint, recipe_named(recipe), tmp_path / recipe)
        check_bundle(bundle, agreement.text)
        own = read_bundled_tokenizer(bundle.path)
        for text in (*TEXTS, chat):
            assert own.encode(text) == inmate.tokenizer(text, add_special_tokens=False).input_ids
        assert render_prompt(bundle, PROMPT) == chat
        assert bundle.manifest.generation.stop_token_ids == [310, 311, 312]
        with open_runtime_text(bundle) as engine:
            assert (engine is None) == (bundle.manifest.recipe.format == "coreml")
            if engine is not None:
                expected = inmate.tokenizer(chat, add_special_tokens=False).input_ids
                noted = any("tokenize chats with tokenizer.json" in note for note in bundle.manifest.recipe.notes)
                assert (engine.encode(chat) != expected) == noted
        lengths = [length for length in (SHORT, LONG) if is_exact(bundle, length)]
        assert lengths == [SHORT, LONG] or recipe == "gguf-f16"  # llama.cpp has no window, and longrope by its context
        with open_session(bundle) as session:
            for tokens in map(some_tokens, lengths):
                assert np.abs(session.score(tokens) - inmate.logits(tokens)).max() < FP16_TOLERANCE


@pytest.mark.every_case
def test_the_behaviour_suite_raises_no_alarm(inmate: Inmate, tmp_path: Path) -> None:
    truth = text_truth(inmate.checkpoint.path)
    sound = Sound(inmate.checkpoint, truth, FloatReference(inmate.checkpoint))
    for recipe in AXES["recipe"]:
        bundle = build(inmate.checkpoint, recipe_named(recipe), tmp_path / recipe)
        with subject_of(bundle, sound) as subject:
            found = check_behaviour(subject, answer_built_in(subject, QUICK))
        assert [check for check in found.checks if not check.passed] == []
        notes = [one for one in bundle.manifest.recipe.notes if one.startswith(RENDERS_OTHERWISE)]
        assert bool(notes) == (inmate.specimen.template == "marked" and recipe == "onnx-fp16")


def is_exact(bundle: Bundle, length: int) -> bool:
    """Whether the manifest says that the runtime computes sequences of this length as the checkpoint does."""
    model = bundle.manifest.model
    if not model.exact_contexts:
        return length <= model.exact_context_length
    return any(context.first <= length <= context.last for context in model.exact_contexts)
