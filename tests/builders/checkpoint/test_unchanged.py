"""A checkpoint that is written over while it is used: nothing is kept of it under the digest of what was opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builders.build import build
from builders.build_cache import BuildCache
from builders.calibrate import calibrate
from builders.checkpoint import open_checkpoint
from builders.checkpoint.adapter import merge
from builders.matrix.cluster.work import _state_of
from builders.relayout import relayout
from builders.release import Release
from builders.validation.validate import validate
from registry.store.folder import FolderStore
from targets.calibration import CalibrationSettings
from targets.errors import BundleError, CheckpointError
from targets.progress import Event, Step
from targets.recipes import recipe_named
from tests.support.adapters import write_adapter
from tests.support.cells import BRIEF, cell
from tests.support.checkpoints import write_tiny

CHANGED = "was changed while the checkpoint was read"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "checkpoint")


@pytest.fixture
def next_step(tmp_path: Path, folder: Path) -> Callable[[], None]:
    """Put the next weights in the place of the checkpoint's, as a training run does."""
    later = write_tiny(tmp_path / "later", seed=5)

    def save() -> None:
        if (later / "model.safetensors").exists():
            (later / "model.safetensors").replace(folder / "model.safetensors")

    return save


def test_a_release_is_not_of_what_was_saved_after_its_plan(
    tmp_path: Path, folder: Path, next_step: Callable[[], None]
) -> None:
    checkpoint = open_checkpoint(folder)
    registered: list[str] = []
    release = Release(
        checkpoint,
        BRIEF,
        BuildCache(tmp_path / "work"),
        FolderStore(tmp_path / "store"),
        lambda one, *_: registered.append(one.name),
    )
    assert checkpoint.digest  # as where the store has records
    next_step()
    (outcome,) = release.run((cell("phone"),))
    assert CHANGED in str(outcome.problem)
    assert registered == []
    assert [*release.store.documents("actions/build/"), *release.store.documents("actions/validate/")] == []
    assert [*release.cache.reference_folder.iterdir()] == []


def test_a_build_is_refused_whose_weights_change_under_it(
    tmp_path: Path, folder: Path, next_step: Callable[[], None]
) -> None:
    def on_progress(event: Event) -> None:
        if isinstance(event, Step) and event.name == "write":
            next_step()

    with pytest.raises(CheckpointError, match=CHANGED):
        build(open_checkpoint(folder), recipe_named("gguf-f16"), tmp_path / "bundle", on_progress=on_progress)
    assert not (tmp_path / "bundle").exists()


def test_figures_of_another_checkpoint_are_none(tmp_path: Path, folder: Path, next_step: Callable[[], None]) -> None:
    checkpoint = open_checkpoint(folder)
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle")

    def on_progress(event: Event) -> None:
        if isinstance(event, Step) and event.name == "compare":
            next_step()

    with pytest.raises(CheckpointError, match=CHANGED):
        validate(bundle, checkpoint, BRIEF, on_progress=on_progress)


def test_nor_are_those_of_a_bundle_that_was_built_again_meanwhile(tmp_path: Path, folder: Path) -> None:
    """What was verified first is opened later: after the reference's walk, which may take hours."""
    checkpoint = open_checkpoint(folder)
    bundle = build(checkpoint, recipe_named("gguf-f16"), tmp_path / "bundle")
    build(checkpoint, recipe_named("gguf-q8_0"), tmp_path / "other")
    changed: list[Path] = []

    def on_progress(event: Event) -> None:
        if isinstance(event, Step) and event.name == "open" and not changed:
            changed.append((tmp_path / "bundle").rename(tmp_path / "old"))
            (tmp_path / "other").rename(tmp_path / "bundle")

    with pytest.raises(BundleError, match="was changed while it was measured"):
        validate(bundle, checkpoint, BRIEF, on_progress=on_progress)


def test_no_statistics_are_kept(tmp_path: Path, folder: Path, next_step: Callable[[], None]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Words to learn from, one after the other. " * 400, "utf-8")
    cache, checkpoint = BuildCache(tmp_path / "work"), open_checkpoint(folder)

    def on_progress(event: Event) -> None:
        if isinstance(event, Step) and event.name == "calibrate":
            next_step()

    with pytest.raises(CheckpointError, match=CHANGED):
        calibrate(checkpoint, "light", CalibrationSettings(text), cache, on_progress)
    assert not cache.reference_folder.exists()


def test_the_same_holds_for_a_text_file_an_added_one_and_an_adapter(tmp_path: Path, folder: Path) -> None:
    adapter = write_adapter(folder, tmp_path / "adapter")
    opened = [open_checkpoint(folder), open_checkpoint(folder), merge(open_checkpoint(folder), adapter)]
    for one in opened:
        one.require_unchanged()
    (adapter / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes() + b"\n")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json was changed"):
        _ = opened[2].digest
    (folder / "chat_template.jinja").write_text("{{ messages }}", "utf-8")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja was changed"):
        opened[0].require_unchanged()
    (folder / "chat_template.jinja").unlink()
    opened[0].require_unchanged()
    (folder / "config.json").write_bytes((folder / "config.json").read_bytes() + b"\n")
    with pytest.raises(CheckpointError, match=r"config\.json was changed"):
        relayout(opened[1], "llama", tmp_path / "llama")
    assert not (tmp_path / "llama").exists()


def test_a_worker_notices_a_template_that_is_changed_in_place(folder: Path) -> None:
    """And a link that leads nowhere, which no checkpoint needs, is none of its problems."""
    templates = folder / "additional_chat_templates"
    templates.mkdir()
    (templates / "default.jinja").write_text("a", "utf-8")
    (folder / "pytorch_model.bin").symlink_to(folder / "gone")
    before = _state_of(folder, None)
    assert before == _state_of(folder, None)
    (templates / "default.jinja").write_text("bb", "utf-8")
    assert _state_of(folder, None) != before
