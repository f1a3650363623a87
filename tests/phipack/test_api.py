"""The public API in process: text in, frozen dataclasses out, every failure as data or as an error of ours."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import phipack
import targets.errors
from devtools.bundles import make_bundle, make_evidence
from tests.support.command_line import command_environment


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> phipack.Registry:
    """A registry in a folder of its own."""
    for name in ("PHIPACK_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return phipack.Registry(home=tmp_path / "home", user="alice")


def register(registry: phipack.Registry, folder: Path, version: str, cell: str = "iphone-15", kl: float = 0.01) -> str:
    """Register a small bundle; return its exact reference."""
    place = folder / "made" / f"{version}-{cell}"
    bundle = make_bundle(place, {"model.gguf": version.encode() * 1000})
    reference = f"phi:{version}@{cell}"
    row = registry.register(str(place), make_evidence(bundle, target=cell, kl_mean=kl), as_=reference)
    assert row.reference == reference
    return reference


def test_a_version_goes_from_registration_to_a_channel_and_back(registry: phipack.Registry, tmp_path: Path) -> None:
    for version in ("1.0.0", "1.1.0"):
        register(registry, tmp_path, version)
        move = registry.promote(f"phi:{version}", to="production", reason="passed review")
    assert (move.who, move.why) == ("alice", "passed review")
    assert registry.models() == ("phi",)
    assert [row.channels for row in registry.versions("phi")] == [(), ("production",)]
    (one,) = registry.show("phi:production")
    assert one.evidence == registry.evidence("phi:1.1.0@iphone-15")
    registry.rollback("phi", reason="second thoughts")
    assert [str(row.release) for row in registry.resolve("phi")] == ["1.0.0"]
    assert [move.kind for move in registry.history("phi", channel="production")] == [
        "rollback",
        "promotion",
        "promotion",
    ]
    assert registry.history("phi", cell="pixel-9") == ()


def test_a_refused_promotion_names_every_failure(registry: phipack.Registry, tmp_path: Path) -> None:
    register(registry, tmp_path, "1.0.0", kl=0.2)
    registry.plan_release("phi:1.0.0", ["iphone-15", "pixel-9"])
    with pytest.raises(phipack.GateError) as caught:
        registry.promote("phi:1.0.0", to="production")
    assert {failure.cell for failure in caught.value.failures} == {"iphone-15", "pixel-9"}
    assert any("kl_mean is 0.2" in failure.problem for failure in caught.value.failures)
    move = registry.promote("phi:1.0.0", to="production", override_reason="the demo")
    assert move.why == "the demo"
    assert {failure.cell for failure in move.overrode} == {"iphone-15", "pixel-9"}


def test_a_reference_to_register_names_one_cell_of_one_version(registry: phipack.Registry, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    for reference in ("phi", "phi:production@iphone-15", "phi:1.0.0"):
        with pytest.raises(phipack.errors.MalformedReferenceError, match="one cell of one version"):
            registry.register(bundle, make_evidence(bundle), as_=reference)
    assert not registry.store.has_bundle(bundle.digest)


def test_evidence_of_another_bundle_is_refused_before_anything_is_stored(
    registry: phipack.Registry, tmp_path: Path
) -> None:
    bundle, other = make_bundle(tmp_path / "one"), make_bundle(tmp_path / "two", {"model.gguf": b"other"})
    with pytest.raises(phipack.errors.RegistryError, match="the evidence is of bundle"):
        registry.register(bundle, make_evidence(other), as_="phi:1.0.0@iphone-15")
    assert not registry.store.has_bundle(bundle.digest)


def test_evidence_is_of_one_cell(registry: phipack.Registry, tmp_path: Path) -> None:
    for cell in ("iphone-15", "pixel-9"):
        register(registry, tmp_path, "1.0.0", cell)
    with pytest.raises(phipack.errors.RegistryError, match="has several cells: iphone-15, pixel-9"):
        registry.evidence("phi:1.0.0")
    assert registry.evidence("phi:1.0.0@pixel-9").target == "pixel-9"


def test_versions_and_folders_are_compared(registry: phipack.Registry, tmp_path: Path) -> None:
    for version in ("1.0.0", "1.1.0"):
        register(registry, tmp_path, version)
    (by_reference,) = registry.diff("phi:1.0.0", "phi:1.1.0", read_tensors=False)
    by_folder = phipack.diff_bundles(tmp_path / "made/1.0.0-iphone-15", str(tmp_path / "made/1.1.0-iphone-15"))
    (mixed,) = registry.diff(str(tmp_path / "made/1.0.0-iphone-15"), "phi:1.0.0")
    assert by_reference.differs
    assert [change.name for change in by_folder.files] == [change.name for change in by_reference.files]
    assert not mixed.differs


def test_a_channel_is_published_and_fetched(registry: phipack.Registry, tmp_path: Path) -> None:
    register(registry, tmp_path, "1.0.0")
    registry.promote("phi:1.0.0", to="production")
    phipack.create_keys(tmp_path / "home" / "keys", thresholds={"root": "1/2"})
    published = registry.publish("phi", tmp_path / "web", rollout_percent=50, new_catalog=True)
    assert [(cell.name, cell.stages[0].basis_points) for cell in published.cells] == [("iphone-15", 5000)]
    assert registry.refresh_catalog(str(tmp_path / "web")) >= published.expires
    fetched = registry.fetch("phi:production@iphone-15", tmp_path / "bundle")
    assert phipack.verify(str(tmp_path / "bundle")).digest == fetched.bundle.digest
    again = phipack.fetch(tmp_path / "bundle", str(tmp_path / "copy"), digest=fetched.bundle.digest)
    assert again.bundle.manifest == fetched.bundle.manifest


@pytest.mark.parametrize(
    "made",
    [
        lambda place: phipack.create_keys(place, thresholds={"roots": "2/3"}),
        lambda place: phipack.create_keys(place, signers={"roots": ["file2:key,key.pem"]}),
        lambda place: phipack.create_keys(place, expiry_days={"roots": 30}),
        lambda place: phipack.rotate_keys("roots", phipack.create_keys(place.with_name("there"))),
    ],
    ids=["thresholds", "signers", "expiry", "rotate"],
)
def test_a_misspelt_role_is_refused_and_makes_no_keys(tmp_path: Path, made: Callable[[Path], object]) -> None:
    """A threshold was left out without a word: one key of one signed what two of three should have."""
    with pytest.raises(phipack.errors.KeysError, match="there is no role 'roots'") as caught:
        made(tmp_path / "keys")
    assert caught.value.fix == "did you mean 'root'?"
    assert not (tmp_path / "keys").exists()


def test_garbage_is_what_no_version_refers_to(registry: phipack.Registry, tmp_path: Path) -> None:
    register(registry, tmp_path, "1.0.0")
    unused = make_bundle(tmp_path / "unused", {"model.gguf": b"of no use"})
    registry.store.add_bundle(unused)
    found = registry.collect_garbage(dry_run=True, grace_hours=0)
    assert unused.digest in {blob.digest for blob in found.removed}
    with pytest.raises(phipack.errors.StoreError, match=r"grace of 0\.5 hours"):
        registry.collect_garbage(grace_hours=0.5)
    assert registry.store.has_bundle(unused.digest)


def test_the_project_file_says_where_the_registry_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PHIPACK_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "team").mkdir()
    project = tmp_path / "team" / "phipack.toml"
    text = 'model = "phi"\nversion = "1.0.0"\ncheckpoint = "c"\n[[cells]]\ntarget = "iphone-15"\nrecipe = "onnx-int4"\n'
    project.write_text(text, "utf-8")
    found = phipack.Registry.from_project(project)
    assert found.home == tmp_path / "team" / ".phipack"
    assert found.tracking_uri == f"sqlite:///{tmp_path}/team/.phipack/mlflow.db"
    assert found.store.uri == f"file://{tmp_path}/team/.phipack/store"
    project.write_text(text + '[registry]\ntracking_uri = "https://mlflow.example"\nstore = "bundles"\n', "utf-8")
    found = phipack.Registry.from_project(str(project))
    assert (found.tracking_uri, found.store.uri) == ("https://mlflow.example", f"file://{tmp_path}/team/bundles")
    monkeypatch.setenv("PHIPACK_STORE", str(tmp_path / "elsewhere"))
    assert phipack.Registry.from_project(project).store.uri == f"file://{tmp_path}/elsewhere"
    assert phipack.Registry.from_project(project, store=tmp_path / "mine").store.uri == f"file://{tmp_path}/mine"
    with pytest.raises(phipack.errors.ProjectError):
        phipack.Registry.from_project(tmp_path / "nowhere.toml")


def test_the_project_files_promoters_hold(registry: phipack.Registry, tmp_path: Path) -> None:
    register(registry, tmp_path, "1.0.0")
    (tmp_path / "phipack.toml").write_text(
        'model = "phi"\nversion = "1.0.0"\ncheckpoint = "c"\n[channels.production]\npromoters = ["bob"]\n'
        '[[cells]]\ntarget = "iphone-15"\nrecipe = "onnx-int4"\n',
        "utf-8",
    )
    mine = phipack.Registry(home=registry.home, project=tmp_path / "phipack.toml", user="alice")
    with pytest.raises(phipack.errors.RegistryError, match="alice may not move channel production"):
        mine.promote("phi:1.0.0", to="production")
    theirs = phipack.Registry(home=registry.home, project=tmp_path / "phipack.toml", user="bob")
    assert theirs.promote("phi:1.0.0", to="production").promoters == ("bob",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kl_mean<0.05", "is not a gate"),
        ("kl_maen<=0.05", "did you mean 'kl_mean'"),
        ("kl_mean<=1e", "is not a gate"),
        ("kl_mean>=0.05", "lets every worse bundle pass"),
        ("same_top_share<=0.9", "lets every worse bundle pass"),
    ],
)
def test_gates_may_be_text(tmp_path: Path, text: str, words: str) -> None:
    evidence = make_evidence(make_bundle(tmp_path / "bundle"))
    judged = phipack.judge(evidence, ["kl_mean<=0.001", "artifact_bytes >= 1"], asked_by="us")
    assert [(gate.figure, gate.passed) for gate in judged.gates[1:]] == [("kl_mean", False), ("artifact_bytes", True)]
    with pytest.raises(phipack.PhipackError, match=words):
        phipack.judge(evidence, [text], asked_by="us")


def test_a_figure_of_ones_own_can_be_gated(tmp_path: Path) -> None:
    evidence = make_evidence(make_bundle(tmp_path / "bundle"))
    gates = {"ended_share": phipack.Gate(at_least=0.9)}
    assert not phipack.judge(evidence, gates, asked_by="our app").passed  # nobody has taken it
    own = phipack.Figure(value=0.95, unit="share", kind="measured", on="ten prompts")
    with_own = evidence.model_copy(update={"figures": evidence.figures | {"ended_share": own}})
    assert phipack.judge(with_own, gates, asked_by="our app").passed


def test_a_bundle_is_split_by_a_size_in_words(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", {"model.gguf": bytes(200_000)})
    parts = phipack.split(str(bundle.path), tmp_path / "parts", "0.1MB")
    assert len(parts) == 3
    assert phipack.join(tmp_path / "parts", tmp_path / "joined").digest == bundle.digest
    with pytest.raises(phipack.PhipackError, match="is not a size"):
        phipack.split(bundle, tmp_path / "others", "much")


def test_fit_takes_a_models_name_and_a_targets(tmp_path: Path) -> None:
    report = phipack.fit("phi-3-mini-4k-instruct", "iphone-15")
    assert {one.fit.recipe for one in report.recipes} == {recipe.name for recipe in phipack.list_recipes()}
    assert report.target in phipack.list_targets()
    with pytest.raises(phipack.errors.TargetError, match="did you mean"):
        phipack.fit("phi-3-mini-4k-instruct", "iphone-51")


def test_results_are_frozen() -> None:
    from phipack.api import results
    from registry import fetch

    found = [
        one
        for module in (results, fetch)
        for _, one in inspect.getmembers(module, inspect.isclass)
        if one.__module__ == module.__name__
    ]
    assert len(found) > 5
    for one in found:
        assert dataclasses.is_dataclass(one), one
        assert one.__dataclass_params__.frozen, one
        assert one.__doc__, one


def test_all_errors_are_exported() -> None:
    own = {
        name
        for name, one in vars(targets.errors).items()
        if inspect.isclass(one) and (issubclass(one, phipack.PhipackError) or one is targets.errors.Failure)
    }
    assert own == set(phipack.errors.__all__)
    assert all(getattr(phipack.errors, name) is getattr(targets.errors, name) for name in own)


def test_an_import_loads_nothing_that_takes_time() -> None:
    program = (
        "import sys, phipack; loaded = set(sys.modules);"
        "assert phipack.__version__ and phipack.Registry;"
        "print(sorted(loaded & {'pydantic', 'click', 'mlflow', 'numpy', 'torch', 'targets', 'registry', 'builders'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_types_are_shipped() -> None:
    for package in ("phipack", "builders", "registry", "targets"):
        assert (Path(__file__).parents[2] / package / "py.typed").is_file()


BLOCKING = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""
BUILD_EXTRA = (
    *("builders", "coremltools", "gguf", "jinja2", "llama_cpp", "ml_dtypes", "onnx", "onnxruntime"),
    *("onnxruntime_genai", "sentencepiece", "tokenizers", "torch", "transformers", "safetensors"),
)
REGISTRY_EXTRA = ("alembic", "boto3", "botocore", "mlflow", "numpy", "psycopg2", "sqlalchemy")

REGISTRY_PROGRAM = """
import phipack
registry = phipack.Registry()
for version in ("1.0.0", "1.1.0"):
    row = registry.register(version, f"{version}.json", as_=f"phi:{version}@iphone-15")
    registry.promote(f"phi:{version}", to="production")
registry.rollback("phi")
assert len(registry.history("phi")) == 3
assert registry.diff("phi:1.0.0", "phi:1.1.0")[0].differs
phipack.create_keys()
registry.publish("phi", "web", new_catalog=True)
registry.publish("phi", "web", keys=".phipack/keys", deltas=True)
assert registry.fetch("phi:production@iphone-15", "out").bundle.digest == phipack.open_bundle("1.0.0").digest
registry.collect_garbage(dry_run=True)
print("done")
"""

BASE_PROGRAM = """
import phipack
bundle = phipack.open_bundle("1.0.0")
phipack.fetch("1.0.0", "copy")
phipack.verify("copy")
phipack.inspect("copy", verify_files=True)
phipack.split("copy", "parts", "0.1MB")
assert phipack.join("parts", "joined").digest == bundle.digest
phipack.diff_bundles("1.0.0", "1.1.0")
phipack.fit("phi-3-mini-4k-instruct", "iphone-15")
phipack.judge(phipack.Evidence.model_validate_json(open("1.0.0.json").read()), ["kl_mean<=0.05"], asked_by="us")
registry = phipack.Registry()
assert registry.models() == ()
try:
    registry.register("1.0.0", "1.0.0.json", as_="phi:1.0.0@iphone-15")
except phipack.PhipackError as error:
    assert "registry" in error.fix, error
assert not registry.store.has_bundle(bundle.digest)
print("done")
"""


@pytest.mark.parametrize(
    ("program", "blocked"),
    [
        # devtools/wheel_check.py installs it too.
        pytest.param(REGISTRY_PROGRAM, BUILD_EXTRA, marks=pytest.mark.every_case, id="phipack[registry]"),
        pytest.param(BASE_PROGRAM, (*BUILD_EXTRA, *REGISTRY_EXTRA), id="phipack"),
    ],
)
def test_an_install_needs_what_its_extras_bring(tmp_path: Path, program: str, blocked: tuple[str, ...]) -> None:
    """In a process where everything else can't be imported, phipack's own builders included."""
    for version in ("1.0.0", "1.1.0"):
        bundle = make_bundle(tmp_path / version, {"model.gguf": version.encode() * 1000, "big.bin": bytes(200_000)})
        (tmp_path / f"{version}.json").write_text(make_evidence(bundle).to_json(), "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", f"BLOCKED = {blocked!r}\n{BLOCKING}\n{program}"],
        cwd=tmp_path,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("done\n"), done.stdout + done.stderr
