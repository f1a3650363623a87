"""What people and services read of the repository itself: workflows, documentation, decision records."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner

from builders.matrix.measuring import DEVICE_LABELS
from builders.matrix.planning import MACOS
from tests.support.workflow_expressions import filled

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github").rglob("*.yml"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")])
# Pages that describe the code as it is now. Decision records describe it as it was.
CURRENT = [page for page in PAGES if page.name in {"CONTRIBUTING.md", "architecture.md", "glossary.md"}]
RECORDS = ROOT / "docs" / "decisions"

_USES = re.compile(r"^\s*(?:-\s+)?uses:\s*(\S+)(.*)$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)[^)]*\)")
_CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"`((?:builders|registry|targets|phipack|tests|docs|benchmarks|\.github)/[\w./-]*)`")


def test_workflows_pin_every_action_by_commit_and_name_its_version() -> None:
    used = [(file.name, *match.groups()) for file in WORKFLOWS for match in _USES.finditer(file.read_text("utf-8"))]
    loose = [
        use
        for use in used
        if not use[1].startswith("$/")  # this repository, at the commit that runs
        and not (re.fullmatch(r"[\w.-]+(/[\w.-]+)+@[0-9a-f]{40}", use[1]) and re.match(r" # v\d+\.\d+\.\d+", use[2]))
    ]

    assert used
    assert not loose


def test_one_version_of_each_action_is_used_everywhere() -> None:
    commits: dict[str, set[str]] = {}
    for file in WORKFLOWS:
        for match in _USES.finditer(file.read_text("utf-8")):
            action, _, commit = match[1].partition("@")
            commits.setdefault(action, set()).add(commit)

    assert {action: found for action, found in commits.items() if len(found) > 1} == {}


def test_a_job_runs_on_a_machine_of_its_label() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/release-matrix.yml").read_text("utf-8"))
    inputs = {
        name: one["default"] for name, one in workflow[True]["workflow_call"]["inputs"].items() if "default" in one
    }

    def runs_on(*labels: str) -> str:
        return str(filled(workflow["jobs"]["cells"]["runs-on"], {"inputs": inputs, "matrix": {"labels": [*labels]}}))

    assert runs_on() == inputs["runner"]
    assert all(runs_on(label) == inputs[f"{label}-runner"] for label in (MACOS, *DEVICE_LABELS))


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", ".github/workflows/*.yml"),
        ("github-actions", ".github/actions/*/action.yml"),
        ("dependabot", ".github/dependabot.yml"),
        ("gitlab-ci", "examples/ci/gitlab*.yml"),
        ("buildkite", "examples/ci/buildkite*.yml"),
    ],
)
def test_files_of_ci_services_follow_their_published_schemas(schema: str, pattern: str) -> None:
    files = [str(path) for path in sorted(ROOT.glob(pattern))]
    transform = ["--data-transform", "gitlab-ci"] if schema == "gitlab-ci" else []

    assert files
    done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", f"vendor.{schema}", *transform, *files])
    assert done.exit_code == 0, done.output


def test_workflows_and_actions_are_safe() -> None:
    """zizmor, without the network: no injection into shells, no credentials left behind, least permissions."""
    zizmor = Path(sys.executable).with_name("zizmor")
    done = subprocess.run(
        [zizmor, "--offline", "--quiet", ROOT / ".github"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_entry_of_the_navigation_is_a_page() -> None:
    entries = list(_nav_files(_mkdocs()["nav"]))

    assert len(entries) == len(set(entries))
    assert [entry for entry in entries if not (ROOT / "docs" / entry).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page: Path) -> None:
    text = _CODE_BLOCK.sub("", page.read_text("utf-8"))
    targets = [link.partition("#")[0] for link in _LINK.findall(text) if "://" not in link]

    assert [target for target in targets if target and not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_files_and_folders_that_a_page_names_exist(page: Path) -> None:
    named = _PATH.findall(page.read_text("utf-8"))

    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_index_and_the_navigation_list_every_decision_record() -> None:
    records = {path.name for path in RECORDS.glob("[0-9]*.md")}
    index = (RECORDS / "index.md").read_text("utf-8")
    rows = re.findall(r"^\| \[(\d{4})\]\((\d{4})-([a-z0-9-]+\.md)\) \|", index, re.MULTILINE)
    nav = {Path(entry).name for entry in _nav_files(_mkdocs()["nav"]) if entry.startswith("decisions/")}

    assert all(label == number for label, number, _ in rows)
    assert [f"{number}-{rest}" for _, number, rest in rows] == sorted(records)
    assert nav == records | {"index.md"}


@pytest.mark.parametrize("record", sorted(RECORDS.glob("[0-9]*.md")), ids=lambda path: path.stem)
def test_a_decision_record_has_all_its_parts(record: Path) -> None:
    text = record.read_text("utf-8")

    assert text.startswith(f"# {record.name[:4]}: ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences", "Alternatives"]


def test_code_owners_own_what_is_there() -> None:
    lines = (ROOT / ".github" / "CODEOWNERS").read_text("utf-8").splitlines()
    paths = [line.split()[0] for line in lines if line.startswith("/")]

    assert paths
    assert [path for path in paths if not (ROOT / path.strip("/")).exists()] == []


def test_the_version_is_the_same_in_all_commits_between_two_tags() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", importlib.metadata.version("phipack"))


def _mkdocs() -> dict[str, Any]:
    """Read `mkdocs.yml`; its tags for Python names, which only mkdocs resolves, are read as None."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda _loader, _suffix, _node: None)
    content: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), Loader)
    return content


def _nav_files(nav: Any) -> Iterator[str]:
    """Yield all files of a navigation, whatever depth they are at."""
    for entry in nav:
        if isinstance(entry, str):
            yield entry
            continue
        for below in entry.values():
            yield from _nav_files([below] if isinstance(below, str) else below)
