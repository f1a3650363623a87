"""Evidence: figures of a bundle. Each figure says whether it was measured or predicted, and on what.

A figure is `claimed` where a device was measured, and that it ran this bundle is only said (targets/benchmark_files).

`phipack validate` writes the JSON form (`evidence.json`), MLflow stores it, and promotion reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from targets.bounded_file import TooLargeError, read_at_most
from targets.errors import MeasurementError
from targets.evidence_details import Details
from targets.gates import Gate, GateResult, judge
from targets.strict_json import MalformedJsonError, canonical_json, parse_model

BYTES_LIMIT = 16 << 20
EVIDENCE_SCHEMA: Literal["phipack.evidence/1"] = "phipack.evidence/1"

# Name -> (unit, meaning). This is the only list of figures; a gate may bound any of them.
FIGURES: dict[str, tuple[str, str]] = {
    "kl_mean": ("nat", "mean KL divergence of the bundle's next-token distribution from the reference's"),
    "kl_standard_error": ("nat", "standard error of kl_mean, from the means of blocks of 64 tokens"),
    "kl_median": ("nat", "median KL divergence"),
    "kl_p99": ("nat", "99th percentile of the KL divergence"),
    "kl_max": ("nat", "maximum KL divergence"),
    "same_top_share": ("share", "positions where bundle and reference have the same most likely token"),
    "perplexity": ("1", "the bundle's perplexity on the text"),
    "reference_perplexity": ("1", "the checkpoint's perplexity on the text, float32"),
    "perplexity_ratio": ("1", "the bundle's perplexity over the checkpoint's"),
    "worst_text_kl_mean": ("nat", "largest mean KL divergence on one of the texts that were read"),
    "english_kl_mean": ("nat", "mean KL divergence on English prose"),
    "code_kl_mean": ("nat", "mean KL divergence on code"),
    "german_kl_mean": ("nat", "mean KL divergence on German prose"),
    "chinese_kl_mean": ("nat", "mean KL divergence on Chinese prose"),
    "chat_kl_mean": ("nat", "mean KL divergence on conversations in the chat template"),
    "past_exact_kl_mean": ("nat", "mean KL divergence past the longest sequence that the runtime computes exactly"),
    "past_exact_same_top_share": ("share", "positions past that length where both have the same most likely token"),
    "past_exact_perplexity_ratio": ("1", "perplexity / reference_perplexity past that length"),
    "past_edge_kl_mean": ("nat", "mean KL divergence past longrope's edge, in a runtime opened as the manifest says"),
    "past_edge_same_top_share": ("share", "positions past that edge where both have the same most likely token"),
    "past_edge_perplexity_ratio": ("1", "perplexity / reference_perplexity past that edge"),
    "under_edge_kl_mean": ("nat", "mean KL divergence of short sequences in a runtime opened for the whole context"),
    "under_edge_same_top_share": ("share", "positions in those sequences where both have the same most likely token"),
    "under_edge_perplexity_ratio": ("1", "perplexity / reference_perplexity in those sequences"),
    "full_cache_kl_mean": ("nat", "mean KL divergence at the end of a long sequence, where the KV cache is quantized"),
    "full_cache_same_top_share": ("share", "positions there where both have the same most likely token"),
    "full_cache_perplexity_ratio": ("1", "perplexity / reference_perplexity there"),
    "greedy_match_share": ("share", "tokens of greedy continuations before the first that differs"),
    "task_drop": ("share", "accuracy lost on the worst task, lower end of its 95 % interval: shown to be lost"),
    "task_drop_high": ("share", "accuracy lost on the worst task, upper end of its 95 % interval: may be lost"),
    "refusals_lost_share": ("share", "prompts of a red-teaming set that the reference refuses and the bundle does not"),
    "safety_same_tokens_share": (
        "share",
        "first 32 (quick: 16) tokens of the answers to these before one differs",
    ),
    "safety_first_token_kl_mean": ("nat", "mean KL divergence at the first token of these answers"),
    "over_refusals_gained_share": ("share", "harmless prompts that the bundle refuses more than the reference does"),
    "runtime_tokens_share": (
        "share",
        "texts that the runtime's own tokenizer splits as the bundle's tokenizer files do",
    ),
    "reference_difference": (
        "nat",
        "largest difference of a log-probability between the float32 reference and transformers' own model",
    ),
    "reference_state_difference": ("1", "largest relative difference of a state within the first layers between these"),
    # The behaviour suite: builders/validation/behaviour.
    "behaviour_checks": ("1", "checks of the behaviour suite that were run"),
    "behaviour_failed_checks": ("1", "checks of the behaviour suite that failed"),
    "empty_share": ("share", "greedy answers without a token"),
    "reference_empty_share": ("share", "the reference's greedy answers without a token"),
    "endless_share": ("share", "greedy answers that no stop id ended"),
    "reference_endless_share": ("share", "the reference's greedy answers that no stop id ended"),
    "loop_share": ("share", "greedy answers that end in the same tokens again and again"),
    "reference_loop_share": ("share", "the reference's greedy answers that end so"),
    "prefill_tokens_per_second": ("token/s", "prompt processing"),
    "decode_tokens_per_second": ("token/s", "generation, one token at a time"),
    "peak_memory_bytes": ("B", "peak resident memory of a process that runs the bundle"),
    "artifact_bytes": ("B", "size of all files of the bundle"),
    "predicted_decode_tokens_per_second": ("token/s", "generation on the target, by its memory bandwidth"),
    "predicted_memory_bytes": ("B", "memory on the target: weights, KV cache and runtime"),
    # Measured on a device: targets/measurement.py.
    "device_prefill_tokens_per_second": ("token/s", "prompt processing on the device"),
    "device_decode_tokens_per_second": ("token/s", "generation on the device, one token at a time"),
    "device_time_to_first_token_seconds": ("s", "prompt processing and the first token on the device"),
    "device_peak_memory_bytes": ("B", "peak resident memory of the runtime's process on the device"),
    "device_kl_mean": ("nat", "mean KL divergence of the device's next-token distribution from the reference's"),
    "device_energy_joules_per_token": ("J/token", "energy that the device drew per generated token"),
    "device_temperature_celsius": ("°C", "highest temperature of the device during the runs"),
}


# Every figure is in one of the three; one that is in none is neither better nor worse.
MORE_IS_BETTER = frozenset(
    (
        *("same_top_share", "past_exact_same_top_share", "past_edge_same_top_share", "under_edge_same_top_share"),
        *("full_cache_same_top_share", "greedy_match_share", "safety_same_tokens_share", "runtime_tokens_share"),
        *("prefill_tokens_per_second", "decode_tokens_per_second", "predicted_decode_tokens_per_second"),
        *("device_prefill_tokens_per_second", "device_decode_tokens_per_second"),
    )
)
LESS_IS_BETTER = frozenset(
    (
        *("perplexity", "reference_perplexity"),  # of the same tokens, whichever model
        *("kl_mean", "kl_standard_error", "kl_median", "kl_p99", "kl_max", "perplexity_ratio", "worst_text_kl_mean"),
        *("english_kl_mean", "code_kl_mean", "german_kl_mean", "chinese_kl_mean", "chat_kl_mean"),
        *("past_exact_kl_mean", "past_edge_kl_mean", "under_edge_kl_mean", "full_cache_kl_mean", "device_kl_mean"),
        *("past_exact_perplexity_ratio", "past_edge_perplexity_ratio", "under_edge_perplexity_ratio"),
        *("full_cache_perplexity_ratio", "task_drop", "task_drop_high", "refusals_lost_share"),
        *("over_refusals_gained_share", "safety_first_token_kl_mean", "behaviour_failed_checks"),
        *("empty_share", "endless_share", "loop_share"),
        *("peak_memory_bytes", "artifact_bytes", "predicted_memory_bytes", "device_peak_memory_bytes"),
        *("device_time_to_first_token_seconds", "device_energy_joules_per_token", "device_temperature_celsius"),
    )
)
NEITHER_IS_BETTER = frozenset(
    (
        *("reference_difference", "reference_state_difference"),
        *("reference_empty_share", "reference_endless_share", "reference_loop_share", "behaviour_checks"),
    )
)
# Figures that compare the bundle with the reference where the runtime is meant to compute the same.
ACCURACY_FIGURES = frozenset(
    (
        *("kl_mean", "kl_median", "kl_p99", "kl_max", "same_top_share", "perplexity_ratio", "greedy_match_share"),
        *("worst_text_kl_mean", "english_kl_mean", "code_kl_mean", "german_kl_mean", "chinese_kl_mean", "chat_kl_mean"),
        *("past_edge_kl_mean", "past_edge_same_top_share", "past_edge_perplexity_ratio"),
        *("full_cache_kl_mean", "full_cache_same_top_share", "full_cache_perplexity_ratio"),
    )
)
# Figures that only a format's own runtime has: where Core ML's is not, its program is evaluated instead.
OWN_RUNTIME_FIGURES = frozenset(("prefill_tokens_per_second", "decode_tokens_per_second", "peak_memory_bytes"))
FAILED_CHECKS = "behaviour_failed_checks"  # what must be 0 unless a gate allows more
NO_ACCURACY_GATE = "it has no gate on accuracy"


class Figure(BaseModel):
    """One number. `on` names the runtime, and the text, host or target that the number applies to."""

    # JSON has no infinity: pydantic would write null, which means "not measured". "Infinity" is read back as a number.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    value: float
    unit: str
    kind: Literal["measured", "claimed", "predicted"]
    on: str

    @field_validator("value")
    @classmethod
    def _is_a_number(cls, value: float) -> float:
        if math.isnan(value):
            raise ValueError("NaN is no figure: what was not measured is left out")
        return value


class Evidence(BaseModel):
    """All figures of one bundle, and the results of its gates."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")  # as Figure; gates have values

    schema_: Literal["phipack.evidence/1"] = Field(EVIDENCE_SCHEMA, alias="schema")
    bundle: str = Field(description="digest of the bundle's manifest, sha256:…")
    checkpoint: str = Field(description="digest of the checkpoint it was compared with, sha256:…")
    recipe: str
    target: str | None = None
    text: str = Field(description="the text that was read: digest of the token ids, windows and their length")
    figures: dict[str, Figure]
    gates: list[GateResult] = Field(default_factory=list)
    details: Details | None = Field(default=None, description="what stands behind the figures; may be left out")

    @model_serializer(mode="wrap")
    def _without_missing_details(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        if self.details is None:
            content.pop("details", None)
        return content

    @property
    def failed_gates(self) -> list[GateResult]:
        """Gates that failed."""
        return [gate for gate in self.gates if not gate.passed]

    @property
    def passed(self) -> bool:
        """True if no gate failed and at least one was on accuracy: a target's gates alone say nothing of accuracy.

        Nor may a check of the behaviour suite have failed, unless a gate bounds how many.
        """
        return not self.failed_gates and not self.failed_checks and bounds_accuracy(self.gates)

    @property
    def failed_checks(self) -> list[str]:
        """Checks of the behaviour suite that failed, as text; empty where a gate bounds how many may."""
        count = self.figures.get(FAILED_CHECKS)
        if count is None or not count.value or any(gate.figure == FAILED_CHECKS for gate in self.gates):
            return []
        failed = [check for check in (self.details.checks if self.details else ()) if not check.passed]
        return [f"{check.group}: {check.name}: {check.detail}" for check in failed] or [
            f"{count.value:g} checks of the behaviour suite failed"
        ]

    @property
    def shortcomings(self) -> list[str]:
        """The reasons why it did not pass, as text; empty if it passed."""
        if self.passed or self.failed_gates or self.failed_checks:
            return [*(str(gate) for gate in self.failed_gates), *self.failed_checks]
        return [NO_ACCURACY_GATE]

    def require_of(self, bundle: str, source: str) -> None:
        """Raise `MeasurementError` where this is the evidence of another bundle than that of the digest `bundle`."""
        if self.bundle != bundle:
            raise MeasurementError(
                f"{source}: the evidence is of bundle {self.bundle}, not of {bundle}",
                fix="run phipack validate on this bundle, and use that evidence",
            )

    def to_json(self) -> str:
        """Return the one JSON form: sorted keys, two spaces, UTF-8, a final newline. Its digest names the evidence."""
        return canonical_json(self)

    @classmethod
    def read(cls, path: Path) -> Evidence:
        """Read `evidence.json`. Raises `MeasurementError` if it is missing or malformed."""
        try:
            raw = read_at_most(path, BYTES_LIMIT)
        except (OSError, TooLargeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise MeasurementError(f"{path}: can't be read: {reason}", fix="write one with phipack validate") from error
        return cls.parse(raw, source=str(path))

    @classmethod
    def parse(cls, raw: bytes, *, source: str) -> Evidence:
        """Return the evidence in the bytes of an `evidence.json`. Raises `MeasurementError` naming `source`."""
        try:
            return parse_model(cls, raw)
        except MalformedJsonError as error:
            raise MeasurementError(
                f"{source}: not an evidence file: {error}", fix="write one with phipack validate"
            ) from error


def bounds_accuracy(gates: Iterable[GateResult]) -> bool:
    """Return whether a gate on accuracy is among them. One that lets all that is worse pass is none."""
    return any(gate.figure in ACCURACY_FIGURES and _refuses_worse(gate.figure, gate.bound) for gate in gates)


def wrong_way(figure: str, gate: Gate) -> tuple[str, str] | None:
    """Return problem and fix of a gate on quality that lets all that is worse pass, such as `kl_mean >= 0.05`.

    None for any other. A lower bound on a size or an upper one on a speed may be meant.
    """
    if FIGURES[figure][0] not in ("nat", "share") and figure not in ACCURACY_FIGURES | {FAILED_CHECKS}:
        return None
    if _refuses_worse(figure, str(gate)):
        return None
    better, right = ("higher", "at_least (>=)") if figure in MORE_IS_BETTER else ("lower", "at_most (<=)")
    return f"{figure} is better the {better} it is: {gate} lets every worse bundle pass", f"bound it by {right}"


def _refuses_worse(figure: str, bound: str) -> bool:
    """Return whether a bound, as `Gate` writes it, is on the worse side of a figure; True where neither side is."""
    return figure not in (LESS_IS_BETTER if bound.startswith(">=") else MORE_IS_BETTER)


def judge_figures(figures: Mapping[str, Figure], gates: Mapping[str, Gate], *, asked_by: str) -> list[GateResult]:
    """Check figures against gates. A figure that is only claimed counts where its gate accepts claims."""
    claimed = {name for name, figure in figures.items() if figure.kind == "claimed"}
    values = {name: figure.value for name, figure in figures.items()}
    return judge(values, gates, asked_by=asked_by, claimed=claimed)
