"""Evidence with everything behind its figures, as a release of a real model has it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builders.report.content import CellContent, Subject
from devtools.bundles import make_bundle
from registry.bundle.folder import Bundle, seal
from registry.bundle.manifest import WeightClass
from registry.diff.compare import compare, folder_side
from registry.ledger.versions import CellVersion
from targets.devices import target_named
from targets.evidence import Evidence, Figure
from targets.evidence_details import (
    Answer,
    Check,
    ClassDivergence,
    Details,
    PositionDivergence,
    Prediction,
    Reach,
    SafetyResult,
    SpeedRuns,
    TaskResult,
    TextDivergence,
)
from targets.gates import GateResult
from targets.references import Version

TEXTS = {"english": 0.021, "code": 0.017, "german": 0.048, "chinese": 0.049, "chat": 0.024}
POSITIONS = (
    *((1, 64, "", 0.031), (65, 512, "", 0.022), (513, 2047, "", 0.021), (2048, 2304, "past the sliding window", 0.023)),
    (3841, 4096, "the context's end", 0.025),
)
CLASSES = {"words": 0.022, "digits": 0.034, "punctuation": 0.012, "code": 0.019, "other scripts": 0.058}
# What an answer may hold: HTML, a terminal's escapes, a mark that turns the line around, another direction.
HOSTILE = (
    '<script>alert("x")</script><img src=https://evil.example/x onerror=alert(1)>\x1b[31mred\u202egnihton {{ 7*7 }}'
)
ANSWERS = (
    (
        "Why is the sky blue?",
        "The sky is blue because air scatters short waves of light more than long ones. This is Rayleigh scattering.",
        "The sky is blue because air scatters blue light more than red light. This is called Rayleigh scattering.",
        8,
    ),
    ("What is 17 times 23?", "17 * 23 = 391.", "17 * 23 = 391.", None),
    ("Write a tag in bold.", "<b>bold</b> & more", HOSTILE, 0),
    ("ما هي عاصمة مصر؟", "عاصمة مصر هي القاهرة.", "عاصمة مصر هي مدينة القاهرة.", 4),
)


def details(*, worse: float = 1.0, **changes: Any) -> Details:
    """Return details; `worse`: a factor of every divergence; `changes`: parts that are others."""
    parts: dict[str, Any] = {
        "suite": "full",
        "texts": tuple(
            TextDivergence(
                text=name,
                tokens=4096,
                kl_mean=value * worse,
                kl_standard_error=value * worse * 0.06,
                same_top_share=0.96 - value * worse,
                perplexity_ratio=1 + value * worse / 2,
                prediction=prediction(name, 12 + 100 * value, 1 + value * worse / 2),
            )
            for name, value in TEXTS.items()
        ),
        "positions": tuple(
            PositionDivergence(
                first=first,
                last=last,
                where=where,
                tokens=1024,
                kl_mean=value * worse,
                kl_standard_error=value * worse * 0.1,
                same_top_share=0.95,
                prediction=prediction(f"{first}-{last}", 15.0, 1.01),
            )
            for first, last, where, value in POSITIONS
        ),
        "classes": tuple(
            ClassDivergence(
                kind=name,
                tokens=900,
                kl_mean=value * worse,
                kl_standard_error=value * worse * 0.08,
                same_top_share=0.95,
                prediction=prediction(name, 9 + 100 * value, 1.01),
            )
            for name, value in CLASSES.items()
        ),
        "reach": Reach(context_length=4096, sliding_window=2047, rope="plain, base 10,000"),
        "checks": checks(),
        "answers": answers(),
        "tasks": (
            task("MMLU", 1000, 0.692, 0.684, 31, 23, -0.006, 0.022),
            task("SocialIQA", 800, 0.741, 0.715, 42, 21, 0.007, 0.045),
        ),
        "safety": (safety("StrongREJECT", 100, 0.91, 96, 95, 1), safety("over-refusal", 60, 0.94, 3, 2, 0)),
        "speed": (
            SpeedRuns(figure="decode_tokens_per_second", values=(17.9, 18.2, 18.4), spread=0.027, other_load=0.1),
        ),
    }
    return Details(**(parts | changes))


def prediction(
    read: str, reference: float, bundle: float, *, times: float = 1.0, uneven: float = 0.0, blocks: int = 16
) -> Prediction:
    """Return how well `read` is predicted: float32's perplexity, and the bundle's as a factor of that.

    `times`: how much higher float32's is than that of another call; `uneven`: by how many nats a token the blocks
    differ from that in turns.
    """
    mean = math.log(reference * times)
    turns = [uneven if number % 2 else -uneven for number in range(blocks)]
    return Prediction(
        digest="sha256:" + hashlib.sha256(read.encode()).hexdigest(),
        reference_perplexity=reference * times,
        perplexity=reference * times * bundle,
        block_tokens=(64,) * blocks,
        reference_surprise=tuple(64 * (mean + (number % 5) / 10 + turn) for number, turn in enumerate(turns)),
    )


def checks(*failed: tuple[str, str, str]) -> tuple[Check, ...]:
    """Return passing checks, and failed ones: group, name, what was expected and found."""
    good = [
        Check(group="edges", name="one past the sliding window", passed=True, value=0.011, bound=0.05, unit="nat"),
        *(
            Check(group="ids", name=f"stop id {number} ends generation", passed=True)
            for number in (32000, 32001, 32007)
        ),
        *(
            Check(group="template", name=name, passed=True)
            for name in ("1 turn", "6 turns", "system message", "braces")
        ),
        Check(group="degeneration", name="loops", passed=True, value=0.0, bound=0.05, unit="share"),
        Check(group="cache", name="q8_0 at 4,096 tokens", passed=True, value=0.0006, bound=0.01, unit="nat"),
    ]
    bad = [Check(group=group, name=name, passed=False, detail=detail) for group, name, detail in failed]  # type: ignore[arg-type]
    return (*good, *bad)


def answers() -> tuple[Answer, ...]:
    return tuple(
        Answer(
            prompt=prompt,
            reference=reference,
            bundle=bundle,
            tokens=24,
            first_difference=first,
            reference_ended=True,
            bundle_ended=True,
        )
        for prompt, reference, bundle, first in ANSWERS
    )


def task(
    name: str, questions: int, reference: float, accuracy: float, lost: int, gained: int, low: float, high: float
) -> TaskResult:
    return TaskResult(
        task=name,
        questions=questions,
        reference_accuracy=reference,
        accuracy=accuracy,
        lost=lost,
        gained=gained,
        drop_low=low,
        drop_high=high,
        licence="MIT",
    )


def safety(name: str, count: int, same: float, reference: int, refusals: int, lost: int) -> SafetyResult:
    return SafetyResult(
        prompts=name,
        count=count,
        same_tokens_share=same,
        first_token_kl_mean=0.02,
        reference_refusals=reference,
        refusals=refusals,
        refusals_lost=lost,
        licence="MIT",
    )


def evidence(
    bundle: Bundle, found: Details | None, *, target: str = "iphone-15", kl_mean: float = 0.024, decode: float = 12.4
) -> Evidence:
    """Return evidence with figures of each kind, and four gates, of which kl_mean's may fail."""
    figures = {
        "kl_mean": Figure(value=kl_mean, unit="nat", kind="measured", on="5 texts, llama.cpp 0.3.36"),
        "kl_p99": Figure(value=kl_mean * 11, unit="nat", kind="measured", on="5 texts, llama.cpp 0.3.36"),
        "same_top_share": Figure(value=0.931, unit="share", kind="measured", on="5 texts, llama.cpp 0.3.36"),
        "perplexity_ratio": Figure(value=1.013, unit="1", kind="measured", on="5 texts, llama.cpp 0.3.36"),
        "decode_tokens_per_second": Figure(value=18.2, unit="token/s", kind="measured", on="host, 2 threads"),
        "peak_memory_bytes": Figure(value=2.61e9, unit="B", kind="measured", on="host"),
        "artifact_bytes": Figure(value=bundle.manifest.total_bytes, unit="B", kind="measured", on="bundle"),
        "predicted_decode_tokens_per_second": Figure(value=11.2, unit="token/s", kind="predicted", on=target),
        "predicted_memory_bytes": Figure(value=2.9e9, unit="B", kind="predicted", on=target),
        "device_decode_tokens_per_second": Figure(
            value=decode, unit="token/s", kind="measured", on="iPhone15,4, iOS 18.1"
        ),
    }
    gates = [
        GateResult(figure="kl_mean", bound="<= 0.05", value=kl_mean, passed=kl_mean <= 0.05, asked_by="project"),
        GateResult(figure="same_top_share", bound=">= 0.9", value=0.931, passed=True, asked_by="project"),
        GateResult(figure="predicted_memory_bytes", bound="<= 4294967296", value=2.9e9, passed=True, asked_by=target),
        GateResult(figure="predicted_decode_tokens_per_second", bound=">= 6", value=11.2, passed=True, asked_by=target),
    ]
    return Evidence(
        schema="phipack.evidence/1",
        bundle=bundle.digest,
        checkpoint=bundle.manifest.checkpoint,
        recipe=bundle.manifest.recipe.name,
        target=target,
        text="sha256:" + "d" * 64 + ", 8 windows of 512 tokens",
        figures=figures,
        gates=gates,
        details=found,
    )


def subject(bundle: Bundle, found: Details | None, name: str, **figures: Any) -> Subject:
    """Return one side of a report. `name`: MODEL:VERSION@CELL, where the cell is a target of ours."""
    cell = name.partition("@")[2]
    given = evidence(bundle, found, target=cell, **figures)
    return Subject(name, cell, bundle.manifest, given, version=registered(name, given), target=target_named(cell))


def registered(name: str, found: Evidence) -> CellVersion:
    """Return the row of a registered cell."""
    model, _, rest = name.partition(":")
    release, _, cell = rest.partition("@")
    return CellVersion(
        model=model,
        cell=cell,
        registered_model=f"{model}.{cell}",
        number=4,
        release=Version.parse(release),
        digest=found.bundle,
        checkpoint=found.checkpoint,
        recipe=found.recipe,
        target=cell,
        gates_passed=found.passed,
        evidence="sha256:" + "e" * 64,
        run_id="0123456789abcdef",
        store="s3://bundles/phi",
        created=datetime(2026, 3, 1, 9, 30, tzinfo=UTC),
        inputs={"checkpoint": found.checkpoint, "tool.gguf": "0.19.0", "evaluation.tokens": "4096"},
    )


def compared(folder: Path, found: Details | None = None, **figures: Any) -> CellContent:
    """Return a cell next to production's, whose template, stop ids and storage are others."""
    before = small_bundle(folder / "before", stop_ids=[32000, 32007], template="{{ messages }}\n", q4=1_400_000_000)
    after = small_bundle(
        folder / "after", stop_ids=[32000, 32001, 32007], template="{{ messages }}\n\n", q4=1_200_000_000
    )
    new = subject(after, found or details(), "phi:1.1.0@iphone-15", **figures)
    old = subject(before, details(worse=0.9), "phi:1.0.0@iphone-15", kl_mean=0.021, decode=12.9)
    sides = (replace(folder_side(one.path), name=name) for one, name in ((before, old.name), (after, new.name)))
    return CellContent(new, old, compare(*sides, read_tensors=False))


OLD_CHECKPOINT = "sha256:" + "9" * 64
NEW_TEXTS = {"english": (1.0, 0.0), "code": (1.02, 0.1), "german": (1.06, 0.01), "chinese": (0.9, 0.01)}
NEW_DIGITS = 2.2  # times the perplexity of the old checkpoint's on digits


def of_other_checkpoint(cell: CellContent) -> CellContent:
    """Return a cell whose baseline is of another checkpoint: one text is the same, others worse, better, of chance.

    `NEW_TEXTS` says by how much. Chat is another text, as the template is. Digits are far worse; answers differ in a
    word. The window is smaller, and the rope another one.
    """
    found, old = cell.candidate.details, cell.baseline
    assert found is not None
    assert old is not None
    assert old.evidence is not None
    assert cell.candidate.evidence is not None
    after = found.model_copy(
        update={
            "texts": tuple(one.model_copy(update={"prediction": _of_new_checkpoint(one)}) for one in found.texts),
            "classes": tuple(
                one.model_copy(
                    update={"prediction": prediction(one.kind, 9 + 100 * CLASSES[one.kind], 1.01, times=NEW_DIGITS)}
                )
                if one.kind == "digits"
                else one
                for one in found.classes
            ),
            "answers": tuple(
                one.model_copy(update={"reference": one.reference.replace("Rayleigh", "Tyndall")})
                for one in found.answers
            ),
            "reach": Reach(context_length=131_072, sliding_window=448, rope="longrope past 4,096 tokens, base 10,000"),
        }
    )
    evidence = cell.candidate.evidence.model_copy(update={"details": after})
    other = {"checkpoint": OLD_CHECKPOINT}
    before = replace(
        old, manifest=old.manifest.model_copy(update=other), evidence=old.evidence.model_copy(update=other)
    )
    return replace(cell, candidate=replace(cell.candidate, evidence=evidence), baseline=before)


def _of_new_checkpoint(text: TextDivergence) -> Prediction:
    times, uneven = NEW_TEXTS.get(text.text, (1.0, 0.0))
    read = text.text if text.text in NEW_TEXTS else f"{text.text}, by another template"
    return prediction(read, 12 + 100 * TEXTS[text.text], text.perplexity_ratio, times=times, uneven=uneven)


def small_bundle(folder: Path, *, stop_ids: list[int], template: str, q4: int) -> Bundle:
    """Return a bundle of a few bytes that says it is Phi-3-mini, `q4` bytes of its weights in Q4_0."""
    made = make_bundle(folder, {"model.gguf": template.encode(), "chat_template.jinja": template.encode()})
    manifest = made.manifest.model_copy(
        update={
            "model": made.manifest.model.model_copy(
                update={
                    "architecture": "Phi3ForCausalLM",
                    "parameters": 3_821_079_552,
                    "layers": 32,
                    "vocabulary_size": 32064,
                    "context_length": 4096,
                    "exact_context_length": 4096,
                }
            ),
            "generation": made.manifest.generation.model_copy(
                update={"stop_token_ids": stop_ids, "chat_template": "chat_template.jinja"}
            ),
            "files": [
                entry.model_copy(update={"bytes": q4 + 412_000_000}) if entry.path == "model.gguf" else entry
                for entry in made.manifest.files
            ],
            "recipe": made.manifest.recipe.model_copy(
                update={
                    "weights": [
                        WeightClass(storage="Q4_0", tensors=128, bytes=q4),
                        WeightClass(storage="Q6_K", tensors=33, bytes=410_000_000),
                        WeightClass(storage="F32", tensors=65, bytes=800_000),
                    ]
                }
            ),
        }
    )
    return seal(folder, manifest)
