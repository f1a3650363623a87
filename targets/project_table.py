"""The tables of `phipack.toml`: the cells of a model's release. `project.py` reads them.

model = "phi-3-mini-4k-instruct"
version = "1.0.0"
reason = "Trained further on answers in German."   # optional: why the release is made, for those who approve it
checkpoint = "checkpoints/phi-3-mini"     # relative to this file, like every path in it
adapter = "adapters/support"              # optional: a peft LoRA, merged into the checkpoint while it is read

[evaluation]                              # optional: text, tokens, window, greedy_prompts …
text = "held-out.txt"

[calibration]                             # optional: see docs/quantization.md
level = "light"                           # of every cell of fewer than 16 bits; by default that of its recipe
text = "calibration.txt"                  # by default a mix of languages, code and chat that comes with phipack

[gates]                                   # for every cell, in addition to the cell's own gates
kl_mean = { at_most = 0.05 }
decode_tokens_per_second = { at_least = 12, on = "device" }   # of a measurement on the target's chip

[[cells]]
target = "iphone-15"                      # a known target, or the path of your own target file
recipe = "coreml-int4"
name = "iphone-15-coreml"                 # optional, the target's name by default; unique
context_length = 2048                     # optional, the longest that fits (at most 4,096) by default
calibration = "full"                      # optional: none, light or full
size = { at_most = "2.0GB" }              # optional: types by measured sensitivity; or size = "fit", or bits = 4.2
gates = { same_top_share = { at_least = 0.9 } }
runtimes = { coreml = "18.1" }            # optional: what this app ships, in place of the target's
                                          # kv_cache = "q8_0" or, in ONNX, "int8": of keys and values

[channels.production]                     # optional; everybody may promote to a channel that is not listed
promoters = ["alice", "release-bot@ci-1"] # who may promote to it and roll it back: USER, or USER@HOST

[registry]                                # optional
tracking_uri = "https://mlflow.example"
store = "bundles"                         # a folder, or s3://BUCKET/PREFIX
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from targets.budget_table import Bits, Size, stated_budget
from targets.calibration import Calibration
from targets.demands import GateTable
from targets.devices import target_named
from targets.errors import PhipackError, ProjectError
from targets.evaluation import Suite
from targets.kv_cache import with_kv_cache
from targets.places import store_problem
from targets.recipes import (
    Recipe,
    can_calibrate,
    check_budget,
    check_calibration,
    default_calibration,
    recipe_named,
)
from targets.references import Version, check_channel, check_name
from targets.runtimes.stated import RuntimeTable
from targets.toml_file import RefusedValueError

NAME_LENGTH_LIMIT = 64

REASON_LIMIT = 2000  # letters: it is one of MLflow's tags
NAMES_LIMIT = 50  # a whole list must fit into one of MLflow's tags


def _refusing(check: Callable[[str], object]) -> AfterValidator:
    """Return a validator that runs a look-up or a check. Its error is reported at the key."""

    def checked(value: str) -> str:
        try:
            check(value)
        except PhipackError as error:
            raise RefusedValueError(error.problem, fix=error.fix) from error
        return value

    return AfterValidator(checked)


def _known_target(target: str) -> None:
    # A path is relative to the project file. A validator doesn't know that file, so the path is read afterwards.
    if not is_path(target):
        target_named(target)


def _is_store(store: str) -> None:
    if (found := store_problem(store)) is not None:
        problem, fix = found
        raise ProjectError(problem, fix=fix)


def is_path(target: str) -> bool:
    """Return whether a target is stated by its file."""
    return target.endswith(".toml") or "/" in target


_ModelName = Annotated[str, _refusing(partial(check_name, "model"))]
_CellName = Annotated[str, _refusing(partial(check_name, "cell"))]
_Path = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class EvaluationTable(_Strict):
    """How every bundle is compared with the checkpoint."""

    text: _Path | None = Field(
        default=None, description="Held-out text to read. By default one that comes with phipack."
    )
    tokens: Annotated[int, Field(ge=64, description="Tokens of the text to read.")] = 4096
    window: Annotated[int, Field(ge=16, description="Tokens of each sequence that is read at once.")] = 512
    greedy_prompts: Annotated[int, Field(ge=1, description="Prompts that are continued greedily.")] = 8
    greedy_prompt_tokens: Annotated[int, Field(ge=1, description="Tokens of each of these prompts.")] = 32
    greedy_new_tokens: Annotated[int, Field(ge=1, description="Tokens that each of them is continued by.")] = 16
    suite: Suite = Field(
        default="accuracy",
        description="What is measured: accuracy; with behaviour, also edges, ids, chat template and greedy answers; "
        "quick, a sample of everything; full, everything.",
    )
    allow_newer_transformers: bool = Field(
        default=False,
        description="Hold a checkpoint that a newer transformers wrote to the installed one, instead of refusing it.",
    )
    tasks: _Path | None = Field(
        default=None,
        description="Folder of questions that checkpoint and bundle answer. Needs phipack[tasks].",
    )
    task_questions: Annotated[int, Field(ge=1, description="Questions of each task that are asked.")] = 200
    safety: _Path | None = Field(default=None, description="Folder of prompts that a bundle should refuse.")
    safety_prompts: Annotated[int, Field(ge=1, description="Prompts of each of its sets that are answered.")] = 32


class CalibrationTable(_Strict):
    """What cells learn from a text before their weights are quantized."""

    level: Calibration | None = Field(
        default=None,
        description="Of every cell whose recipe has fewer than 16 bits, and that has none of its own. "
        "By default that of the recipe.",
    )
    text: _Path | None = Field(
        default=None,
        description="Text to read, other than the evaluation's. By default a mix of languages, code and chat that "
        "comes with phipack.",
    )


class CellTable(_Strict):
    """One square of the matrix: a recipe for a target."""

    target: Annotated[
        str,
        _refusing(_known_target),
        Field(description="A target that comes with phipack (phipack targets ls), or the path of a target file."),
    ]
    recipe: Annotated[
        str, _refusing(recipe_named), Field(description="Format and storage of the weights (phipack recipes).")
    ]
    name: _CellName | None = Field(
        default=None, description="The cell's name in references, MODEL:VERSION@CELL; unique. By default the target's."
    )
    context_length: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Longest sequence, in tokens. By default the longest that fits, at most 4,096."
    )
    calibration: Calibration | None = Field(
        default=None,
        description="What is learned from a text before weights are quantized: nothing, which inputs are large (light: "
        "minutes), or how all inputs go together (full: up to hours). By default the project's.",
    )
    size: Size | None = Field(
        default=None,
        description="How large the bundle may become, for recipes of fewer than 16 bits: each matrix gets its type by "
        'measured sensitivity. { at_most = "2.0GB" }, or "fit": the largest that fits the target with this context.',
    )
    bits: Bits | None = Field(
        default=None, description="In place of size: the mean bits per weight, scales included, such as 4.2."
    )
    kv_cache: str | None = Field(
        default=None,
        description="Type of keys and values: such as q8_0 in GGUF, int8 in ONNX. By default the runtime's own floats.",
    )
    runtimes: RuntimeTable = Field(
        default_factory=dict,
        description="Versions of runtimes that this cell's app ships, in place of those of the target.",
    )
    gates: GateTable = Field(
        default_factory=dict, description="Bounds for this cell. They replace the bound of [gates] on the same figure."
    )

    @model_validator(mode="after")
    def _named(self) -> CellTable:
        if self.name is None and is_path(self.target):
            fix = 'add name = "…": commands select the cell by this name'
            raise RefusedValueError("a cell whose target is a file needs a name", at=("target",), fix=fix)
        return self

    @model_validator(mode="after")
    def _budgeted(self) -> CellTable:
        stated_budget(self.size, self.bits)
        return self

    @model_validator(mode="after")
    def _cached(self) -> CellTable:
        try:
            _ = self.asked_recipe
        except PhipackError as error:
            raise RefusedValueError(error.problem, at=("kv_cache",), fix=error.fix) from error
        return self

    @model_validator(mode="after")
    def _calibrated(self) -> CellTable:
        if self.calibration is not None:
            try:
                check_calibration(self.asked_recipe, self.calibration)
            except PhipackError as error:
                raise RefusedValueError(error.problem, at=("calibration",), fix=error.fix) from error
        return self

    @property
    def asked_recipe(self) -> Recipe:
        """The recipe with the cell's budget and KV cache."""
        recipe = replace(recipe_named(self.recipe), budget=stated_budget(self.size, self.bits))
        return recipe if self.kv_cache is None else with_kv_cache(recipe, self.kv_cache)

    @property
    def own_name(self) -> str:
        """The cell's name: `name`, or by default that of its target."""
        return self.name or self.target


class ChannelTable(_Strict):
    """A channel, and who may move it."""

    promoters: Annotated[list[str], Field(max_length=NAMES_LIMIT)] | None = Field(
        default=None,
        description="Who may promote to it and roll it back: USER, or USER@HOST. By default anybody may.",
    )

    @field_validator("promoters")
    @classmethod
    def _named(cls, promoters: list[str] | None) -> list[str] | None:
        if promoters == []:
            raise RefusedValueError("the list is empty", fix="add a user, or remove the key to let everybody promote")
        for place, name in enumerate(promoters or ()):
            if not name or len(name) > NAME_LENGTH_LIMIT or any(letter.isspace() for letter in name):
                fix = f"write USER or USER@HOST, at most {NAME_LENGTH_LIMIT} characters, without spaces"
                raise RefusedValueError(f"{name!r} is not a valid name of a user", at=(place,), fix=fix)
        return promoters


class RegistryTable(_Strict):
    """Where releases are registered and their bytes stored."""

    tracking_uri: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="MLflow server. By default SQLite in .phipack, next to this file."
    )
    store: Annotated[str, _refusing(_is_store)] | None = Field(
        default=None, description="A folder, or s3://BUCKET/PREFIX. By default .phipack/store, next to this file."
    )


class ProjectTable(_Strict):
    """A model's release, cell by cell. Paths are relative to the file."""

    model: _ModelName = Field(description="The line of releases, such as phi-3-mini-4k-instruct.")
    version: Annotated[str, _refusing(Version.parse)] = Field(description="Semantic version of this release: 1.0.0.")
    reason: Annotated[str, Field(max_length=REASON_LIMIT)] | None = Field(
        default=None, description="Why this release is made, in a few sentences. Reports and pages begin with it."
    )
    checkpoint: _Path = Field(description="Folder of the checkpoint.")
    adapter: _Path | None = Field(
        default=None, description="Folder of a peft adapter (LoRA), merged into the checkpoint. By default none."
    )
    evaluation: EvaluationTable = Field(
        default_factory=EvaluationTable, description="How every bundle is compared with the checkpoint."
    )
    calibration: CalibrationTable = Field(
        default_factory=CalibrationTable,
        description="What cells learn from a text before their weights are quantized.",
    )
    gates: GateTable = Field(default_factory=dict, description="Bounds on evidence, for every cell.")
    cells: Annotated[list[CellTable], Field(min_length=1)] = Field(description="What is built: one recipe a target.")
    channels: dict[str, ChannelTable] = Field(
        default_factory=dict, description="Who may move a channel. Anybody may move a channel that is not listed."
    )
    registry: RegistryTable = Field(
        default_factory=RegistryTable, description="Where releases are registered and their bytes stored."
    )

    @field_validator("reason")
    @classmethod
    def _says_something(cls, reason: str | None) -> str | None:
        if reason is not None and not reason.strip():
            raise RefusedValueError("the reason is empty", fix="say why this release is made, or remove the key")
        return reason

    @field_validator("channels")
    @classmethod
    def _channel_names(cls, channels: dict[str, ChannelTable]) -> dict[str, ChannelTable]:
        for name in channels:
            try:
                check_channel(name)
            except PhipackError as error:
                raise RefusedValueError(error.problem, at=(name,), fix=error.fix) from error
        return channels

    @field_validator("cells")
    @classmethod
    def _unique(cls, cells: list[CellTable]) -> list[CellTable]:
        seen: set[str] = set()
        for place, cell in enumerate(cells):
            if cell.own_name in seen:
                key = "target" if cell.name is None else "name"
                fix = "give one of them another name" + (
                    ', with a key of its own: name = "…"' if key == "target" else ""
                )
                raise RefusedValueError(f"two cells are called {cell.own_name!r}", at=(place, key), fix=fix)
            seen.add(cell.own_name)
        return cells

    @model_validator(mode="after")
    def _calibrated_where_needed(self) -> ProjectTable:
        for place, cell in enumerate(self.cells):
            recipe, level = cell.asked_recipe, self.calibration_of(cell)
            checks = ((check_budget, "bits" if cell.size is None else "size"), (check_calibration, "kv_cache"))
            for check, key in checks:
                try:
                    check(recipe, level)
                except PhipackError as error:
                    raise RefusedValueError(error.problem, at=("cells", place, key), fix=error.fix) from error
        return self

    def calibration_of(self, cell: CellTable) -> Calibration:
        """Return a cell's calibration: its own, else the project's, which is no use to 16 bits, else the recipe's."""
        if cell.calibration is not None:
            return cell.calibration
        recipe = cell.asked_recipe
        if self.calibration.level is None:
            return default_calibration(recipe)
        return self.calibration.level if can_calibrate(recipe) else "none"
