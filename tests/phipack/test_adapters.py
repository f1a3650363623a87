"""Adapters on the command line and in the project file: built, validated, released, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import phipack as api
from phipack.diagnosis.machine import check_project
from phipack.state import State
from registry.store.folder import FolderStore
from tests.support.adapters import change_config, write_adapter
from tests.support.command_line import InProcess, result_of, run_in, write_project

BRIEF = ("--tokens", "64")


@pytest.fixture(scope="session")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny checkpoint. Don't change it."""
    return write_adapter(tiny_folder, tmp_path_factory.mktemp("adapters") / "adapter")


def test_a_bundle_is_built_and_validated_with_its_adapter(
    command: InProcess, tiny_folder: Path, adapter: Path, tmp_path: Path
) -> None:
    base, own = str(tiny_folder), str(adapter)
    command("build", base, "--adapter", own, "--recipe", "gguf-f16", "--context", "256", "-o", "bundle")
    manifest = command("--json", "inspect", "bundle").document["result"]["manifest"]
    parts = command("--json", "inspect", base, "--adapter", own).document["result"]
    assert manifest["merged_from"] == parts["merged_from"]
    assert manifest["checkpoint"] == parts["digest"]
    shown = command("inspect", "bundle").stdout
    assert manifest["merged_from"]["adapter"] in shown
    refused = command("validate", "bundle", "--against", base, *BRIEF, expect=1)
    assert "--adapter DIR" in refused.stderr
    figures = command("--json", "validate", "bundle", "--against", base, "--adapter", own, *BRIEF)
    evidence = figures.document["result"]
    assert evidence["figures"]["kl_mean"]["value"] < 1e-4
    assert evidence["checkpoint"] == manifest["checkpoint"]


def test_fit_and_convert_take_an_adapter(command: InProcess, tiny_folder: Path, adapter: Path) -> None:
    base, own = str(tiny_folder), str(adapter)
    report = command("--json", "fit", base, "--adapter", own, "--target", "iphone-15").document["result"]
    plain = command("--json", "fit", base, "--target", "iphone-15").document["result"]
    assert report == plain  # the same sizes
    command("convert", base, "--adapter", own, "--layout", "phi3", "-o", "merged")
    assert api.open_checkpoint("merged").digest != api.open_checkpoint(tiny_folder).digest


def test_a_refused_adapter_names_file_and_key_and_leaves_nothing(
    command: InProcess, tiny_folder: Path, tmp_path: Path
) -> None:
    own = write_adapter(tiny_folder, tmp_path / "pissa")
    change_config(own, lambda content: content.update(init_lora_weights="pissa"))
    done = command("build", str(tiny_folder), "--adapter", str(own), "--recipe", "gguf-f16", "-o", "bundle", expect=1)
    assert f"{own / 'adapter_config.json'}: init_lora_weights is 'pissa'" in done.stderr
    assert not (tmp_path / "bundle").exists()


def test_a_release_with_an_adapter_is_another_one_than_its_bases(
    tiny_folder: Path, adapter: Path, migrated_database: Path, tmp_path: Path
) -> None:
    folder = write_project(tmp_path / "project", tiny_folder, migrated_database)
    path = folder / "phipack.toml"
    plain = path.read_text("utf-8")
    tuned = plain.replace("\n[", f'\nadapter = "{adapter}"\n\n[', 1).replace('"1.0.0"', '"1.1.0"')
    path.write_text(tuned, "utf-8")
    phipack = run_in(folder)
    planned = result_of(phipack("--json", "release", "--dry-run", "--only", "iphone-15"))["cells"]
    assert [(cell["built"], cell["problem"]) for cell in planned] == [(True, None)]
    released = result_of(phipack("--json", "release", "--only", "iphone-15"))["cells"]
    assert released[0]["registered"]
    again = result_of(phipack("--json", "release", "--only", "iphone-15"))["cells"]
    assert (again[0]["built"], again[0]["measured"]) == (False, False)
    manifest = FolderStore(folder / ".phipack" / "store").manifest(released[0]["digest"])
    opened = api.open_checkpoint(tiny_folder, adapter=adapter)
    assert manifest.merged_from is not None
    assert manifest.merged_from == opened.merged_from
    path.write_text(plain, "utf-8")
    assert result_of(phipack("--json", "release", "--dry-run", "--only", "iphone-15"))["cells"][0]["built"]


def test_the_projects_adapter_is_looked_for(command: InProcess, tiny_folder: Path, tmp_path: Path) -> None:
    text = f'model = "tiny"\nversion = "1.0.0"\ncheckpoint = "{tiny_folder}"\nadapter = "nowhere"\n'
    (tmp_path / "phipack.toml").write_text(text + '[[cells]]\ntarget = "iphone-15"\nrecipe = "gguf-q8_0"\n', "utf-8")
    check = check_project(State(named_project=tmp_path / "phipack.toml"))
    assert (check.status, check.found.split("; ")[1]) == ("warn", f"no adapter at {tmp_path / 'nowhere'}")
    assert "nowhere: there is no such folder" in command("release", "--dry-run", expect=1).stderr
