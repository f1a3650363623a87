"""The project file, `phipack.toml`, as commands use it: its cells with targets, recipes and gates, and its settings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from targets.calibration import Calibration, CalibrationSettings
from targets.devices import Target, target_named
from targets.errors import ProjectError, did_you_mean
from targets.evaluation import EvaluationSettings
from targets.gates import Gate
from targets.kernels import fast_types
from targets.project_table import ProjectTable, is_path
from targets.recipes import Recipe
from targets.references import Version
from targets.stated_path import PathKind, require_stated
from targets.toml_file import read_toml
from targets.toml_lines import KeyPath


@dataclass(frozen=True)
class Roles:
    """A project file's `[channels.CHANNEL] promoters`, by channel. Everybody may promote to other channels."""

    source: str
    promoters: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Cell:
    """One combination of a target and a recipe. `gates`: by who asks for them: cell, project, target."""

    name: str
    target: Target
    recipe: Recipe
    context_length: int | None
    gates: dict[str, dict[str, Gate]]
    calibration: Calibration = "none"


@dataclass(frozen=True)
class Project:
    """The contents of a project file. Paths are absolute, or relative to the working directory."""

    path: Path
    model: str
    version: Version
    checkpoint: Path
    adapter: Path | None
    settings: EvaluationSettings
    gates: dict[str, Gate]
    cells: tuple[Cell, ...]
    roles: Roles
    tracking_uri: str | None
    store: str | None
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    reason: str = ""

    def cells_named(self, names: tuple[str, ...]) -> tuple[Cell, ...]:
        """Return the cells with these names, or all cells if `names` is empty.

        Raises:
            ProjectError: there is no cell of a name.
        """
        known = {cell.name: cell for cell in self.cells}
        for name in names:
            if name not in known:
                raise ProjectError(f"{self.path}: no cell {name!r}", fix=did_you_mean(name, known))
        return tuple(known[name] for name in names) or self.cells

    def require_paths(self, tables: Collection[str] = ("checkpoint", "adapter", "evaluation", "calibration")) -> None:
        """Check that the files and folders that these tables state are there, before work that needs them.

        Raises:
            ProjectError: one is not, with file, line and key.
        """
        for keys, path, kind in self._stated_paths():
            if path is not None and keys[0] in tables:
                require_stated(self.path, keys, path, kind)

    def _stated_paths(self) -> Iterator[tuple[KeyPath, Path | None, PathKind]]:
        yield ("checkpoint",), self.checkpoint, "folder"
        yield ("adapter",), self.adapter, "folder"
        yield ("evaluation", "text"), self.settings.text, "file"
        yield ("evaluation", "tasks"), self.settings.tasks, "folder"
        yield ("evaluation", "safety"), self.settings.safety, "folder"
        yield ("calibration", "text"), self.calibration.text, "file"


def load_project(path: Path) -> Project:
    """Read a project file. Raises `ProjectError` with file, line and key."""
    table = read_toml(path, ProjectTable, ProjectError)
    folder = path.parent
    evaluation = table.evaluation
    return Project(
        path=path,
        model=table.model,
        version=Version.parse(table.version),
        checkpoint=folder / table.checkpoint,
        adapter=None if table.adapter is None else folder / table.adapter,
        settings=EvaluationSettings(
            text=None if evaluation.text is None else folder / evaluation.text,
            tokens=evaluation.tokens,
            window=evaluation.window,
            greedy_prompts=evaluation.greedy_prompts,
            greedy_prompt_tokens=evaluation.greedy_prompt_tokens,
            greedy_new_tokens=evaluation.greedy_new_tokens,
            allow_newer_transformers=evaluation.allow_newer_transformers,
            tasks=None if evaluation.tasks is None else folder / evaluation.tasks,
            task_questions=evaluation.task_questions,
            safety=None if evaluation.safety is None else folder / evaluation.safety,
            safety_prompts=evaluation.safety_prompts,
            suite=evaluation.suite,
        ),
        gates=table.gates,
        cells=tuple(_cell(path, table, place) for place in range(len(table.cells))),
        roles=Roles(str(path), {name: tuple(one.promoters) for name, one in table.channels.items() if one.promoters}),
        tracking_uri=table.registry.tracking_uri,
        store=_store(table.registry.store, folder),
        calibration=CalibrationSettings(
            text=None if table.calibration.text is None else folder / table.calibration.text
        ),
        reason=(table.reason or "").strip(),
    )


def _store(given: str | None, folder: Path) -> str | None:
    """Return a URI unchanged, and a folder relative to the project file's folder."""
    return given if given is None or "://" in given else str(folder / given)


def _cell(path: Path, project: ProjectTable, place: int) -> Cell:
    cell = project.cells[place]
    if is_path(cell.target):
        require_stated(path, ("cells", place, "target"), path.parent / cell.target, "file")
    target = target_named(str(path.parent / cell.target) if is_path(cell.target) else cell.target)
    if cell.runtimes:
        target = target.model_copy(update={"runtimes": target.runtimes | cell.runtimes})
    # On the same figure, a cell's gate replaces the project's. A target's gates apply in addition to both.
    asked_by_project = {figure: gate for figure, gate in project.gates.items() if figure not in cell.gates}
    gates = {"cell": cell.gates, "project": asked_by_project, "target": target.gates}
    recipe = cell.asked_recipe
    if recipe.budget is not None:
        recipe = replace(recipe, candidates=fast_types(recipe.format, target))
    return Cell(
        name=cell.own_name,
        target=target,
        recipe=recipe,
        context_length=cell.context_length,
        gates={who: asked for who, asked in gates.items() if asked},
        calibration=project.calibration_of(cell),
    )
