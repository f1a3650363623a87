"""`evidence import`, and where its figures show up: `show`, `fit --measured`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devtools.bundles import make_bundle, make_evidence
from registry.bundle.manifest import WeightClass
from registry.ledger.ledger import open_ledger
from registry.ledger.registration import Registration
from registry.store.folder import FolderStore
from targets.measurement import Measurement
from targets.references import Version
from tests.support.benchmark_files import PERF_YAML, llama_bench, llama_bench_test
from tests.support.command_line import InProcess
from tests.support.measurements import measurement

DECODE = "device_decode_tokens_per_second"
RUN = llama_bench(
    llama_bench_test(model_type="phi3 3B Q4_0", model_size=1000, model_n_params=1, n_prompt=512, n_gen=0),
    llama_bench_test(model_type="phi3 3B Q4_0", model_size=1000, model_n_params=1),
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_bytes(RUN)
    (tmp_path / "perf.yaml").write_bytes(PERF_YAML)
    return tmp_path


@pytest.fixture
def bundle(files: Path) -> str:
    """The folder of a bundle whose manifest agrees with the run."""
    made = make_bundle(files / "bundle")
    recipe = made.manifest.recipe.model_copy(update={"weights": [WeightClass(storage="Q4_0", tensors=1, bytes=1000)]})
    manifest = made.manifest.model_copy(update={"recipe": recipe})
    (made.path / "manifest.json").write_bytes(manifest.to_bytes())
    return str(made.path)


def test_runs_are_shown_without_a_bundle(files: Path, command: InProcess) -> None:
    done = command("evidence", "import", "perf.yaml", "--os", "Android 14", "--json").document["result"]
    assert (done["bundle"], done["added"], len(done["measurements"])) == (None, 0, 2)
    text = command("evidence", "import", "perf.yaml", "--select", "elite", "--os", "Android 14").stdout
    assert "Snapdragon 8 Elite QRD, Android 14" in text
    assert "Galaxy" not in text
    assert "claimed" in text
    assert "added to no bundle: name it with --bundle" in text


def test_a_claim_is_added_to_its_bundle_and_shown_as_one(files: Path, bundle: str, command: InProcess) -> None:
    arguments = ("evidence", "import", "run.json", "--bundle", bundle, "--target", "iphone-15-pro")
    assert "1 new for sha256:" in command(*arguments).stdout
    again = command(*arguments, "--json").document["result"]
    assert (again["added"], again["measurements"][0]["match"]) == (0, "claim")
    store = FolderStore(files / ".phipack" / "store")
    ledger = open_ledger(f"sqlite:///{files}/.phipack/mlflow.db", store)
    from registry.bundle.folder import open_bundle

    opened = open_bundle(Path(bundle))
    store.add_bundle(opened)
    evidence = make_evidence(opened)
    ledger.register(Registration("phi", Version.parse("1.0.0"), "iphone-15", opened.manifest, evidence))
    shown = command("show", "phi:1.0.0").stdout
    assert "on devices, in the store:" in shown
    assert "claimed by" in shown
    (cell,) = command("show", "phi:1.0.0", "--json").document["result"]["cells"]
    assert cell["measurements"][0]["figures"][DECODE]["value"] == 15.5
    by_reference = ("evidence", "import", "run.json", "--bundle", "phi:1.0.0", "--target", "iphone-15-pro")
    assert "0 new for sha256:" in command(*by_reference).stdout


def test_a_claim_that_the_file_contradicts_is_refused(files: Path, bundle: str, command: InProcess) -> None:
    (files / "run.json").write_bytes(llama_bench())
    done = command("evidence", "import", "run.json", "--bundle", bundle, "--target", "iphone-15-pro", expect=1)
    assert "was not this bundle: its weights are Q4_K - Medium (gguf-q4_k_m), not gguf-q4_0" in done.stderr
    assert not (files / ".phipack" / "store" / "measurements").exists()


def test_a_measurement_of_our_own_is_added_to_its_bundle_alone(files: Path, bundle: str, command: InProcess) -> None:
    (files / "other.json").write_text(measurement().to_json(), "utf-8")
    done = command("evidence", "import", "other.json", "--bundle", bundle, expect=1)
    assert "other.json is of sha256:aaaa" in done.stderr
    (files / "paper.json").write_text(measurement(bundle=None, match="claim").to_json(), "utf-8")
    added = command("evidence", "import", "paper.json", "--bundle", bundle, "--json").document["result"]
    assert added["measurements"][0]["bundle"] == added["bundle"]
    assert "paper.json: alice: run.json" in added["measurements"][0]["claim"]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--target", "pixel-9", "own.json is of iPhone15,4 with Apple A16, not of pixel-9"),
        ("--device", "SM-S921U", "own.json says iPhone15,4, not SM-S921U"),
        ("--os", "iOS 17.0", "own.json says 18.1, not 17.0"),
        ("--soc", "Apple A17 Pro", "own.json says Apple A16, not Apple A17 Pro"),
        ("--recipe", "gguf-q4_0", "own.json says nothing, not gguf-q4_0"),
    ],
)
def test_what_is_said_of_a_measurement_of_ones_own_is_no_other_than_it_says(
    files: Path, command: InProcess, option: str, value: str, said: str
) -> None:
    """It was ignored: with --target a measurement of another phone was added without a word."""
    (files / "own.json").write_text(measurement().to_json(), "utf-8")
    assert said in command("evidence", "import", "own.json", option, value, expect=1).stderr
    command("evidence", "import", "own.json", "--target", "iphone-14-pro")  # which has the same chip


def test_a_measurement_is_written_and_learned_from(files: Path, command: InProcess) -> None:
    (files / "run.json").write_bytes(llama_bench())
    options = ("--target", "iphone-15-pro", "--model", "phi-3-mini-4k-instruct", "-o", "measured.json")
    command("evidence", "import", "run.json", *options)
    assert Measurement.read(files / "measured.json").recipe == "gguf-q4_k_m"

    def speed(*more: str) -> dict[str, float]:
        document = command("fit", "phi-3-mini-4k-instruct", "--target", "iphone-15-pro", "--json", *more).document
        return next(one for one in document["result"]["recipes"] if one["recipe"] == "gguf-q4_0")[
            "decode_tokens_per_second"
        ]

    before, after = speed(), speed("--measured", "measured.json")
    assert after["low"] > before["low"]
    assert after["high"] / after["low"] < before["high"] / before["low"]
    assert after["basis"] == "learned from 1 figure of this chip and runtime"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("perf.yaml", "--os", "Android", "-o", "x.json"), 2, "--out takes one run, and there are 2"),
        (("perf.yaml", "--select", "nothing"), 1, "no run has this text"),
        (("run.json", "--format", "xcode"), 1, "unknown format 'xcode'"),
        (("run.json",), 1, "the file does not name the device"),
        (("absent.json",), 1, "absent.json: can't be read"),
    ],
)
def test_what_is_refused(files: Path, command: InProcess, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = command("evidence", "import", *arguments, "--json", expect=code)
    assert said in json.dumps(done.document["error"], ensure_ascii=False)
