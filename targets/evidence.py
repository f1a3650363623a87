"""Evidence: what is known of a bundle, figure by figure, each saying whether it was measured or predicted, and on what.

The JSON form (`evidence.json`) is what `phipack validate` writes, what MLflow keeps, and what promotion reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from targets.errors import MeasurementError
from targets.gates import GateResult

EVIDENCE_SCHEMA: Literal["phipack.evidence/1"] = "phipack.evidence/1"

# Name -> (unit, what it says). The one list of figures; gates may bound any of them.
FIGURES: dict[str, tuple[str, str]] = {
    "kl_mean": ("nat", "mean KL divergence of the bundle's next-token distribution from the reference's"),
    "kl_median": ("nat", "median of the same"),
    "kl_p99": ("nat", "99th percentile of the same"),
    "kl_max": ("nat", "maximum of the same"),
    "same_top_share": ("share", "positions where both give the same most likely token"),
    "perplexity": ("1", "the bundle's perplexity on the text"),
    "reference_perplexity": ("1", "the checkpoint's perplexity on the text, float32"),
    "perplexity_ratio": ("1", "perplexity / reference_perplexity"),
    "past_exact_kl_mean": ("nat", "mean KL divergence past the longest sequence that the runtime computes exactly"),
    "past_exact_same_top_share": ("share", "positions past it where both give the same most likely token"),
    "past_exact_perplexity_ratio": ("1", "perplexity / reference_perplexity past it"),
    "past_edge_kl_mean": ("nat", "mean KL divergence past longrope's edge, opened as the manifest says"),
    "past_edge_same_top_share": ("share", "positions past that edge where both give the same most likely token"),
    "past_edge_perplexity_ratio": ("1", "perplexity / reference_perplexity past that edge"),
    "under_edge_kl_mean": ("nat", "mean KL divergence of short sequences in a runtime opened for the whole context"),
    "under_edge_same_top_share": ("share", "positions in those where both give the same most likely token"),
    "under_edge_perplexity_ratio": ("1", "perplexity / reference_perplexity in those"),
    "greedy_match_share": ("share", "tokens of greedy continuations before the first that differs"),
    "runtime_tokens_share": ("share", "texts that the runtime's own tokenizer splits as the bundle's files say"),
    "prefill_tokens_per_second": ("token/s", "prompt processing"),
    "decode_tokens_per_second": ("token/s", "generation, one token at a time"),
    "peak_memory_bytes": ("B", "peak resident memory of a process that runs the bundle"),
    "artifact_bytes": ("B", "all files of the bundle"),
    "predicted_decode_tokens_per_second": ("token/s", "bandwidth roofline for the target"),
    "predicted_memory_bytes": ("B", "weights, KV cache and runtime on the target"),
}


# Figures that compare the bundle's answers with the reference's, where the runtime means to give the same.
ACCURACY_FIGURES = frozenset(
    (
        *("kl_mean", "kl_median", "kl_p99", "kl_max", "same_top_share", "perplexity_ratio", "greedy_match_share"),
        *("past_edge_kl_mean", "past_edge_same_top_share", "past_edge_perplexity_ratio"),
    )
)


class Figure(BaseModel):
    """One number. `on` names the text, host or target it holds for, and the runtime."""

    # JSON has no infinity: pydantic would write null, which reads as "not taken". "Infinity" comes back as a number.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    value: float
    unit: str
    kind: Literal["measured", "predicted"]
    on: str


class Evidence(BaseModel):
    """All figures of one bundle, and how they stand to the gates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["phipack.evidence/1"] = Field(EVIDENCE_SCHEMA, alias="schema")
    bundle: str = Field(description="digest of the bundle's manifest, sha256:…")
    checkpoint: str = Field(description="digest of the checkpoint it was compared with, sha256:…")
    recipe: str
    target: str | None = None
    text: str = Field(description="what was read: digest of the token ids, windows and their length")
    figures: dict[str, Figure]
    gates: list[GateResult] = Field(default_factory=list)

    @property
    def failed_gates(self) -> list[GateResult]:
        """Gates that it does not pass."""
        return [gate for gate in self.gates if not gate.passed]

    @property
    def passed(self) -> bool:
        """True where no gate failed, and one at least was on accuracy: a target's demands alone prove no answer."""
        return not self.failed_gates and any(gate.figure in ACCURACY_FIGURES for gate in self.gates)

    @property
    def shortcomings(self) -> list[str]:
        """What stands against it, in words; nothing where it passed."""
        if self.passed or self.failed_gates:
            return [str(gate) for gate in self.failed_gates]
        return ["no gate on accuracy was asked of it"]

    def to_json(self) -> str:
        """Give the JSON text, stable under re-reading."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> Evidence:
        """Read `evidence.json`. Raises `MeasurementError` where it is missing or malformed."""
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise MeasurementError(
                f"{path} can't be read: {error.strerror}", fix="run phipack validate to make one"
            ) from error
        return cls.parse(raw, source=str(path))

    @classmethod
    def parse(cls, raw: bytes, *, source: str) -> Evidence:
        """Return the evidence in the bytes of an `evidence.json`. Raises `MeasurementError` naming `source`."""
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            raise MeasurementError(
                f"{source}: not an evidence file: {error}", fix="run phipack validate to make one"
            ) from error
