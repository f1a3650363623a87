"""What the pages show to a new user: one project file, and a sample client that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from devtools.catalogs import Publisher
from devtools.servers import RangeHandler, serving
from targets.project import load_project

ROOT = Path(__file__).parents[2]


def block(page: str, language: str) -> str:
    """Return a page's first block of a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def test_readme_and_quickstart_show_one_project_file(tmp_path: Path) -> None:
    shown = block("README.md", "toml")
    assert shown == block("docs/quickstart.md", "toml")
    (tmp_path / "phipack.toml").write_text(shown, "utf-8")
    assert [cell.name for cell in load_project(tmp_path / "phipack.toml").cells] == ["galaxy-s24", "iphone-15"]


def test_the_sample_client_runs_as_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher = Publisher(tmp_path / "publisher")
    publisher.release("1.0.0")
    publisher.publish()
    program = block("docs/app-developer.md", "python")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1.root.json").write_bytes(publisher.root.read_bytes())
    with serving(publisher.place.root, kind=RangeHandler) as url:
        exec(program.replace("https://cdn.example/catalog", url).replace("my-phi", "phi"), {})
    assert "'1.0.0')" in capsys.readouterr().out
