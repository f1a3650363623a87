"""What stands behind the figures of evidence: by text, position and kind of token, check by check, answer by answer.

Gates bound figures (`evidence.py`). Details are for people: the report draws them, and they say where a figure comes
from. Evidence that was written before there were details has none.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from targets.evaluation import Suite

HARMLESS_PROMPTS = "over-refusal"  # the set of harmless prompts that each validation of safety asks


ROPE_FACTORS = ", factors "  # before the digest of longrope's factors in a rope's description


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")  # as Figure


class Prediction(_Part):
    """How well the reference and the bundle predict some tokens: two checkpoints that read the same are compared by it.

    A token's surprise is its negative log-likelihood, a perplexity exp of the mean surprise. Tokens that the reference
    rules out don't count.
    """

    digest: str = Field(description="of the tokens' positions and ids; only what read the same can be compared")
    reference_perplexity: float
    perplexity: float
    block_tokens: tuple[PositiveInt, ...] = Field(min_length=1, description="tokens in each block of 64 neighbours")
    reference_surprise: tuple[float, ...] = Field(description="the reference's, in nats, summed over each block")

    @model_validator(mode="after")
    def _has_a_sum_for_each_block(self) -> Self:
        if len(self.reference_surprise) != len(self.block_tokens):
            raise ValueError(f"{len(self.reference_surprise)} sums of {len(self.block_tokens)} blocks")
        return self


class Divergence(_Part):
    """How far the bundle's next-token distributions are from the reference's, over some tokens. KL in nats."""

    tokens: int = Field(ge=1)
    kl_mean: float
    kl_standard_error: float = Field(description="of the mean; neighbouring tokens are averaged in blocks first")
    same_top_share: float = Field(ge=0, le=1)
    prediction: Prediction | None = Field(default=None, description="null where an older phipack did not record it")


class TextDivergence(Divergence):
    """One text: `english`, `code`, `german`, `chinese`, `chat`, or the name of a file."""

    text: str
    perplexity_ratio: float


class PositionDivergence(Divergence):
    """Tokens `first` to `last` of their sequences, counted from 1."""

    first: int = Field(ge=1)
    last: int = Field(ge=1)
    where: str = Field(default="", description="such as 'past the sliding window'; empty for a plain range")


class ClassDivergence(Divergence):
    """Positions whose next token is of one kind: `digits`, `words`, `punctuation` and others."""

    kind: str


CheckGroup = Literal["edges", "ids", "template", "degeneration", "cache"]


class Check(_Part):
    """One check of the behaviour suite. `value` and `bound`: where it compares numbers."""

    group: CheckGroup
    name: str = Field(description="unique in its group, such as 'stop id 32007 ends generation'")
    passed: bool
    value: float | None = None
    bound: float | None = None
    unit: str = ""
    detail: str = Field(default="", description="what was expected and found; empty where it passed")


class NotRun(_Part):
    """A check of the behaviour suite that could not be run, such as one that the runtime makes no promise about."""

    group: CheckGroup
    name: str
    reason: str


class Answer(_Part):
    """One prompt, continued greedily by the float32 reference and by the bundle."""

    prompt: str
    reference: str
    bundle: str
    tokens: int = Field(ge=0, description="of the bundle's answer")
    first_difference: int | None = Field(default=None, ge=0, description="tokens before the first that differs")
    reference_ended: bool = Field(description="by a stop id, within the tokens allowed")
    bundle_ended: bool
    special_tokens: tuple[str, ...] | None = Field(
        default=None, description="within the bundle's answer, stop ids apart; null where nobody has looked"
    )


TaskKind = Literal["choice", "generation"]


class TaskResult(_Part):
    """A task, answered by the reference and by the bundle with the same prompts."""

    task: str
    kind: TaskKind = Field(
        default="choice",
        description="`choice`: the likeliest of several answers; `generation`: a written answer's number",
    )
    questions: int = Field(ge=1)
    left_out: int = Field(default=0, ge=0, description="questions for which the bundle's exact context is too short")
    reference_accuracy: float = Field(ge=0, le=1)
    accuracy: float = Field(ge=0, le=1)
    lost: int = Field(ge=0, description="questions that only the reference answers rightly")
    gained: int = Field(ge=0, description="questions that only the bundle answers rightly")
    drop_low: float = Field(description="lower end of the interval of reference_accuracy - accuracy")
    drop_high: float
    confidence: float = Field(default=0.95, gt=0, lt=1)
    licence: str
    benchmark: str = Field(default="", description="whose published scores (targets/published.py) it is shown next to")

    @property
    def asked(self) -> str:
        """How many questions were asked, for people: `1,000`, or `50 written, 2 left out`."""
        kind = " written" if self.kind == "generation" else ""
        return f"{self.questions:,}{kind}" + (f", {self.left_out:,} left out" if self.left_out else "")


class SafetyResult(_Part):
    """One set of prompts. The answers' text is never kept."""

    prompts: str = Field(description="name of the set")
    count: int = Field(ge=1)
    same_tokens_share: float = Field(ge=0, le=1, description="of the first greedy tokens, before the first difference")
    first_token_kl_mean: float
    reference_refusals: int = Field(ge=0)
    refusals: int = Field(ge=0)
    refusals_lost: int = Field(ge=0, description="prompts that only the reference refuses")
    licence: str

    @property
    def is_harmless(self) -> bool:
        """True for the prompts that only look like those that should be refused: here fewer refusals are better."""
        return self.prompts == HARMLESS_PROMPTS


class SpeedRuns(_Part):
    """The single runs behind a speed figure, in token/s, and how busy the machine was with other work."""

    figure: str
    values: tuple[float, ...] = Field(min_length=1)
    spread: float = Field(ge=0, description="(largest - smallest) / median")
    other_load: float = Field(ge=0, description="processors that other processes kept busy meanwhile")


class Reach(_Part):
    """Which tokens the checkpoint attends to, and how it tells their places. Lengths are in tokens."""

    context_length: int = Field(ge=1, description="the longest that config.json allows, whatever the bundle's")
    sliding_window: int | None = Field(description="keys that a token sees, itself included; null for no window")
    rope: str = Field(
        description="such as `plain, base 10,000` or `longrope past 4,096 tokens, base 10,000, factors 1a2b3c4d`, which"
        " begins their digest; older evidence does not have that"
    )


class Details(_Part):
    """All that is known behind the figures. What was not asked for is empty."""

    suite: Suite
    reach: Reach | None = Field(default=None, description="null where an older phipack did not record it")
    texts: tuple[TextDivergence, ...] = ()
    positions: tuple[PositionDivergence, ...] = ()
    classes: tuple[ClassDivergence, ...] = ()
    checks: tuple[Check, ...] = ()
    not_run: tuple[NotRun, ...] = Field(default=(), description="checks that were asked for and could not be run")
    answers: tuple[Answer, ...] = ()
    tasks: tuple[TaskResult, ...] = ()
    safety: tuple[SafetyResult, ...] = ()
    speed: tuple[SpeedRuns, ...] = ()
