"""What `matrix --template` includes is looked at before a pipeline names it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from phipack.ci.gitlab_template import check_template
from targets.errors import ProjectError
from tests.support.command_line import InProcess

ROOT = Path(__file__).parents[3]
GITHUB = "on: [push]\njobs:\n  build: {runs-on: ubuntu-latest}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository, and its folder `models`, where commands are run."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path / "models")
    monkeypatch.delenv("CI_PROJECT_DIR", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "content",
    [
        ".phipack: {image: python}\n",
        "spec: {inputs: {image: {}}}\n---\n.phipack:\n  image: $[[ inputs.image ]]\n",
        "include: [{local: other.yml}]\n",
        ".base: &base {image: python}\n.phipack:\n  <<: *base\n  script: [!reference [.install, script]]\n",
    ],
)
def test_a_template_of_gitlab_passes(here: Path, content: str) -> None:
    (here / "jobs.yml").write_text(content, "utf-8")
    check_template("jobs.yml")
    check_template("/jobs.yml")


def test_our_own_example_passes(here: Path) -> None:
    shutil.copy(ROOT / "examples/ci/phipack.gitlab-ci.yml", here)
    check_template("phipack.gitlab-ci.yml")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it has no jobs"),
        (b"# none\n", "it has no jobs"),
        (b"- .phipack\n", "it has no jobs"),
        (b"{image: [\n", "it is no YAML"),
        (b"\xff\xfe.phipack", "it is no YAML"),
        (b"[" * 100_000, "it is no YAML"),
        (b"#" * (1 << 20) + b"#", "more than 1,048,576 bytes"),
        (b".phipack: none\n", "is no job"),
        (b".phipak: {image: python}\n", "no job .phipack, and begins with .phipak"),
        (GITHUB.encode(), "it is a workflow of GitHub"),
        (b"steps: [{command: make}]\n", "it is a pipeline of Buildkite"),
    ],
)
def test_what_gitlab_could_not_extend_is_refused(here: Path, content: bytes, said: str) -> None:
    (here / "jobs.yml").write_bytes(content)
    with pytest.raises(ProjectError, match=said):
        check_template("jobs.yml")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("jobs.yaml", "no such file in"),
        ("", "GitLab includes files called"),
        ("jobs.json", "GitLab includes files called"),
        ("../jobs.yml", "without .."),
        ("models.yml", "no such file in"),
    ],
)
def test_what_gitlab_would_not_find_is_refused(here: Path, template: str, said: str) -> None:
    (here / "jobs.yml").write_text(".phipack: {}\n", "utf-8")
    (here / "models.yml").mkdir()
    with pytest.raises(ProjectError, match=said):
        check_template(template)


def test_a_path_from_the_current_folder_is_answered_with_the_one_from_the_root(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "models" / "jobs.yml").write_text(".phipack: {}\n", "utf-8")
    with pytest.raises(ProjectError, match="from where GitLab looks") as caught:
        check_template("jobs.yml")
    assert caught.value.fix == "--template models/jobs.yml"
    check_template("models/jobs.yml")
    monkeypatch.setenv("CI_PROJECT_DIR", str(here / "models"))
    check_template("jobs.yml")


def test_the_command_looks_before_it_writes(here: Path, command: InProcess) -> None:
    done = command("matrix", "--format", "gitlab", "--template", "jobs.yml", "--dotenv", "plan.env", expect=1)
    assert "--template jobs.yml: no such file" in done.stderr
    assert done.stdout == ""
    assert list((here / "models").iterdir()) == []
