"""What is registered, and what a reference resolves to. Pure: the rows come from `ledger.py` or `sqlite_reader.py`.

A cell is an MLflow registered model `MODEL.CELL`; each release adds an MLflow version (an integer) whose tags hold the
rest. Channels are MLflow's aliases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from targets.errors import MalformedReferenceError, RegistryError, closest, did_you_mean
from targets.references import Reference, Version
from targets.strict_json import parse_json

PRODUCTION = "production"
TAG_PREFIX = "phipack."
# Every version carries all of these; a registered model carries the first two.
MODEL_TAG = TAG_PREFIX + "model"
CELL_TAG = TAG_PREFIX + "cell"
RELEASE_TAG = TAG_PREFIX + "release"
DIGEST_TAG = TAG_PREFIX + "digest"
CHECKPOINT_TAG = TAG_PREFIX + "checkpoint"
RECIPE_TAG = TAG_PREFIX + "recipe"
TARGET_TAG = TAG_PREFIX + "target"
GATES_TAG = TAG_PREFIX + "gates"
EVIDENCE_TAG = TAG_PREFIX + "evidence"
RUN_TAG = TAG_PREFIX + "run"
STORE_TAG = TAG_PREFIX + "store"
INPUTS_TAG = TAG_PREFIX + "inputs"  # missing in versions that older phipacks registered
BUDGET_TAG = TAG_PREFIX + "budget"  # only of bundles with a budget
KV_CACHE_TAG = TAG_PREFIX + "kv_cache"  # only of bundles with another KV cache than the format's own
CALIBRATION_INPUT = "calibration."  # begins an input's name, whose end is the level
PASSED, FAILED = "passed", "failed"


@dataclass(frozen=True)
class CellVersion:
    """A cell's bundle in one release.

    `registered_model` and `number` are MLflow's own name and version of it, as they were read: every change is
    addressed to them. `run_id` is the run with the evidence, whose file has the digest `evidence`; `store` the URI of
    the store that has the bundle; `channels` the aliases that point here now; `budget` the size that was asked for, as
    in `at most 2000000000 B`, if there was one; `kv_cache` the type of keys and values, empty for the format's own;
    `inputs` what it was made from (`release_inputs.py`).
    """

    model: str
    cell: str
    registered_model: str
    number: int
    release: Version
    digest: str
    checkpoint: str
    recipe: str
    target: str
    gates_passed: bool
    evidence: str
    run_id: str
    store: str
    created: datetime
    channels: tuple[str, ...] = ()
    budget: str | None = None
    kv_cache: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def reference(self) -> str:
        """Return the exact reference, `MODEL:1.0.0@CELL`."""
        return f"{self.model}:{self.release}@{self.cell}"

    @property
    def calibration(self) -> str:
        """What was learned from a text before the weights were quantized: none, light or full."""
        found = (name for name in self.inputs if name.startswith(CALIBRATION_INPUT))
        return next(found, "none").removeprefix(CALIBRATION_INPUT)


def registered_model_name(model: str, cell: str) -> str:
    """Return the name that a cell gets in MLflow. Both parts may have dots: the tags say where one ends.

    Only for names that are created: MLflow lets people rename them, so what exists is addressed by its row.
    """
    return f"{model}.{cell}"


def is_at_home(version_tags: Mapping[str, str], registered_model_tags: Mapping[str, str]) -> bool:
    """Return whether a version is in its cell's registered model: a copy keeps its tags, and is in another's."""
    return all(version_tags.get(tag) == registered_model_tags.get(tag) for tag in (MODEL_TAG, CELL_TAG))


def version_from_tags(
    name: str, number: int, tags: Mapping[str, str], *, created_ms: int, channels: Sequence[str]
) -> CellVersion:
    """Return the row that tags keep. Raises `RegistryError` where one is missing or wrong: changed by hand."""
    try:
        return CellVersion(
            model=tags[MODEL_TAG],
            cell=tags[CELL_TAG],
            registered_model=name,
            number=number,
            release=Version.parse(tags[RELEASE_TAG]),
            digest=tags[DIGEST_TAG],
            checkpoint=tags[CHECKPOINT_TAG],
            recipe=tags[RECIPE_TAG],
            target=tags[TARGET_TAG],
            gates_passed=tags[GATES_TAG] == PASSED,
            evidence=tags[EVIDENCE_TAG],
            run_id=tags[RUN_TAG],
            store=tags[STORE_TAG],
            created=time_of(created_ms, f"version {number} of {name}"),
            channels=tuple(sorted(channels)),
            budget=tags.get(BUDGET_TAG),
            kv_cache=tags.get(KV_CACHE_TAG, ""),
            inputs={"checkpoint": tags[CHECKPOINT_TAG]} | _inputs(tags.get(INPUTS_TAG, "{}")),
        )
    except (KeyError, ValueError, MalformedReferenceError) as error:
        problem = error.problem if isinstance(error, MalformedReferenceError) else f"tag {INPUTS_TAG}"
        what = f"tag {error.args[0]}" if isinstance(error, KeyError) else problem
        raise RegistryError(
            f"MLflow's version {number} of {name}: {what} is missing or wrong",
            fix=f"restore the tag, or delete version {number} of {name} in MLflow and register it again",
        ) from error


def time_of(milliseconds: int, what: str) -> datetime:
    """Return when MLflow says that `what` was made. Raises `RegistryError` where no calendar has that time."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise RegistryError(
            f"MLflow's {what} has no time that a calendar has: {str(milliseconds)[:30]}",
            fix="correct it in MLflow's database, or delete it there",
        ) from error


def _inputs(raw: str) -> dict[str, str]:
    found = parse_json(raw)
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError(raw)
    return found


def settled(versions: Sequence[CellVersion]) -> list[CellVersion]:
    """Sort by model, cell and release, one row each: where two processes raced, the lower number counts everywhere.

    A cell that is in two registered models (`require_one_home`) keeps the rows of both.
    """
    rows: dict[tuple[str, str, Version, str], CellVersion] = {}
    for version in sorted(versions, key=lambda row: row.number):
        rows.setdefault((version.model, version.cell, version.release, version.registered_model), version)
    return [rows[key] for key in sorted(rows)]


def require_one_home(rows: Sequence[CellVersion]) -> None:
    """Check that each cell's rows are in one registered model.

    Raises:
        RegistryError: a cell has two: MLflow's page, not phipack, renamed or copied one.
    """
    homes: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        homes.setdefault((row.model, row.cell), set()).add(row.registered_model)
    for (model, cell), names in homes.items():
        if len(names) > 1:
            raise RegistryError(
                f"cell {cell} of model {model} is in {len(names)} of MLflow's registered models: "
                f"{' and '.join(sorted(names))}; one was renamed or copied there, so which is meant is unknown",
                fix="in MLflow, delete the one that is not the cell's, and rename the other to "
                + registered_model_name(model, cell),
            )


def require_own_name(model: str, cell: str, rows: Sequence[CellVersion]) -> None:
    """Check that a cell's registered model has the name that phipack gave it, before a version is added.

    Raises:
        RegistryError: it was renamed in MLflow. A version under the old name would begin a second list of numbers.
    """
    name = registered_model_name(model, cell)
    for row in rows:
        if (row.model, row.cell) == (model, cell) and row.registered_model != name:
            raise RegistryError(
                f"cell {cell} of model {model} is MLflow's registered model {row.registered_model!r}: it was renamed"
                f" from {name!r}; nothing was registered",
                fix=f"rename it back, on its page or with MlflowClient().rename_registered_model("
                f"{row.registered_model!r}, {name!r})",
            )


def unknown_model(model: str, models: Sequence[str], registry: str) -> RegistryError:
    """Return the error for a model that has no versions. `models`: those that have; `registry`: where was looked."""
    return RegistryError(
        f"no model {model!r} is registered in {registry}",
        fix=did_you_mean(model, models) if models else "register one: phipack release phipack.toml",
    )


def resolve(
    reference: Reference,
    versions: Sequence[CellVersion],
    models: Sequence[str] = (),
    *,
    registry: str = "the registry",
) -> list[CellVersion]:
    """Return the version of each cell that the reference names: one cell, or all that a release or channel has.

    - A version: the cells of that release.
    - A channel, `production` where none is given: the cells that it points at.
    - A range: the highest release in it whose gates passed, of the named cell, else of all cells of that release.

    A cell is never returned twice, as it would be where it is in two of MLflow's registered models.

    Args:
        reference: what was asked for.
        versions: all rows of its model.
        models: names of all models, to help after a slip.
        registry: where the rows come from, for the message.

    Raises:
        RegistryError: no version matches, and the message says what there is; or `require_one_home` refuses.
    """
    if not versions:
        raise unknown_model(reference.model, models, registry)
    cells = {row.cell for row in versions}
    if reference.cell is not None and reference.cell not in cells:
        raise RegistryError(
            f"model {reference.model} has no cell {reference.cell!r}", fix=did_you_mean(reference.cell, cells)
        )
    rows = [row for row in settled(versions) if reference.cell in (None, row.cell)]
    release = reference.version
    if reference.range is not None:
        wanted = reference.range
        release = _highest_passing(rows, lambda version: version in wanted)
    elif release is None:
        channel = reference.channel or PRODUCTION
        if found := [row for row in rows if channel in row.channels]:
            require_one_home(found)
            return found
    if release is not None and (found := [row for row in rows if row.release == release]):
        require_one_home(found)
        return found
    raise RegistryError(f"no version matches {_name(reference)}", fix=_what_there_is(rows, reference.channel))


def _highest_passing(rows: Sequence[CellVersion], wanted: Callable[[Version], bool]) -> Version | None:
    failed = {row.release for row in rows if not row.gates_passed}
    return max((row.release for row in rows if row.release not in failed and wanted(row.release)), default=None)


def _name(reference: Reference) -> str:
    if reference.version is None and reference.range is None and reference.channel is None:
        return f"{reference} (its channel {PRODUCTION})"
    return str(reference)


def channels_at(rows: Iterable[CellVersion]) -> set[str]:
    """Return the channels that point at a version."""
    return {channel for row in rows for channel in row.channels}


def _what_there_is(rows: Sequence[CellVersion], asked: str | None) -> str:
    releases = {row.release: all(r.gates_passed for r in rows if r.release == row.release) for row in rows}
    versions = [f"{release}{'' if releases[release] else ' (gates failed)'}" for release in sorted(releases)]
    channels = sorted(channels_at(rows))
    there = f"name a version: {', '.join(versions)}; channels: {', '.join(channels) or 'none yet (phipack promote)'}"
    near = closest(asked or "", channels)
    return there if near is None else f"did you mean {near!r}? Or {there}"
