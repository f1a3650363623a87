"""Small bundles and their evidence, made without a builder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from registry.bundle.folder import Bundle, file_entries, seal
from registry.bundle.manifest import BudgetEntry, CalibrationEntry, GenerationEntry, Manifest, ModelEntry, RecipeEntry
from targets.evidence import Evidence, Figure
from targets.gates import GateResult

CHECKPOINT = "sha256:" + "c" * 64
FILES = {
    "model.gguf": b"weights" * 1000,
    "tokenizer.json": b"{}",
    "model.mlpackage/Data/weights.bin": bytes(range(256)) * 20,
}


def make_bundle(
    folder: Path,
    files: Mapping[str, bytes] = FILES,
    recipe: str = "gguf-q4_0",
    calibration: CalibrationEntry | None = None,
    budget: BudgetEntry | None = None,
    kv_cache: str = "",
) -> Bundle:
    """Write the files and seal them as a bundle."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifest = Manifest(
        schema="phipack.bundle/1",
        model=ModelEntry(
            architecture="phi3",
            parameters=1,
            layers=1,
            hidden_size=8,
            kv_heads=1,
            head_dim=8,
            vocabulary_size=16,
            context_length=64,
            exact_context_length=64,
        ),
        recipe=RecipeEntry(
            name=recipe,
            format="gguf",
            weights=[],
            notes=[],
            calibration=calibration,
            budget=budget,
            kv_cache=kv_cache,
        ),
        checkpoint=CHECKPOINT,
        generation=GenerationEntry(stop_token_ids=[2], bos_token_id=1, pad_token_id=None, chat_template=None),
        tools={"phipack": "0.1.0"},
        files=file_entries(folder),
    )
    return seal(folder, manifest)


def make_evidence(bundle: Bundle, *, target: str = "iphone-15", kl_mean: float = 0.01) -> Evidence:
    """Return evidence with one gate, kl_mean <= 0.05."""
    gate = GateResult(figure="kl_mean", bound="<= 0.05", value=kl_mean, passed=kl_mean <= 0.05, asked_by=target)
    return Evidence(
        schema="phipack.evidence/1",
        bundle=bundle.digest,
        checkpoint=bundle.manifest.checkpoint,
        recipe=bundle.manifest.recipe.name,
        target=target,
        text="sha256:" + "d" * 64 + ", 4 windows of 1024 tokens",
        figures={
            "kl_mean": Figure(value=kl_mean, unit="nat", kind="measured", on="text, llama.cpp"),
            "artifact_bytes": Figure(value=bundle.manifest.total_bytes, unit="B", kind="measured", on="bundle"),
        },
        gates=[gate],
    )
