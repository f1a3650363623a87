"""The project file: its cells with their gates, and errors with line and key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from targets.budget import Budget
from targets.calibration import CalibrationSettings
from targets.devices import target_named
from targets.errors import ProjectError
from targets.evaluation import EvaluationSettings
from targets.gates import Gate
from targets.project import Project, load_project
from targets.recipes import FOUR_BIT_CALIBRATION, RECIPES
from targets.references import Version

PROJECT = """\
model = "smollm2-135m"
version = "1.0.0-rc.1"
checkpoint = "models/smollm2"

[evaluation]
text = "held-out.txt"
tokens = 2048
window = 256

[gates]
kl_mean = { at_most = 0.5 }
same_top_share = { at_least = 0.5 }

[[cells]]
target = "iphone-15"
recipe = "coreml-int4"
name = "iphone-15-coreml"
context_length = 2048
[cells.gates]
same_top_share = { at_least = 0.7 }

[[cells]]
target = "pixel-9"
recipe = "gguf-q8_0"

[registry]
tracking_uri = "https://mlflow.example"
store = "bundles"
"""
MINIMAL = """\
model = "m"
version = "1.0.0"
checkpoint = "c"
[[cells]]
target = "iphone-15"
recipe = "gguf-q4_0"
"""


def load(tmp_path: Path, content: str) -> Project:
    path = tmp_path / "phipack.toml"
    path.write_text(content, "utf-8")
    return load_project(path)


def refused(tmp_path: Path, old: str, new: str) -> ProjectError:
    assert PROJECT.count(old) == 1
    with pytest.raises(ProjectError) as caught:
        load(tmp_path, PROJECT.replace(old, new))
    return caught.value


def test_project_paths_are_relative_to_the_project_file(tmp_path: Path) -> None:
    project = load(tmp_path, PROJECT)
    assert (project.model, project.version) == ("smollm2-135m", Version(1, 0, 0, ("rc", 1)))
    assert project.checkpoint == tmp_path / "models/smollm2"
    assert project.settings == EvaluationSettings(text=tmp_path / "held-out.txt", tokens=2048, window=256)
    assert (project.tracking_uri, project.store) == ("https://mlflow.example", str(tmp_path / "bundles"))
    assert project.gates == {"kl_mean": Gate(at_most=0.5), "same_top_share": Gate(at_least=0.5)}


def test_why_a_release_is_made_may_be_said(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL).reason == ""
    said = 'version = "1.0.0"\nreason = """\nAnswers in German\nwere too short.\n"""\n'
    assert load(tmp_path, MINIMAL.replace('version = "1.0.0"\n', said)).reason == "Answers in German\nwere too short."


@pytest.mark.parametrize(("reason", "words"), [(" ", "the reason is empty"), ("x" * 2001, "at most 2000 characters")])
def test_a_reason_that_says_nothing_or_too_much_is_refused(tmp_path: Path, reason: str, words: str) -> None:
    error = refused(tmp_path, 'version = "1.0.0-rc.1"\n', f'version = "1.0.0-rc.1"\nreason = "{reason}"\n')
    assert ": reason: " in error.problem
    assert words in error.problem


def test_absolute_path_is_unchanged(tmp_path: Path) -> None:
    assert load(tmp_path, PROJECT.replace('"models/smollm2"', '"/models/x"')).checkpoint == Path("/models/x")


@pytest.mark.parametrize(
    ("stated", "line", "key", "kind"),
    [
        ("", 3, "checkpoint", "folder"),
        ('adapter = "lora"', 4, "adapter", "folder"),
        ('[evaluation]\ntext = "held-out.txt"', 5, "evaluation.text", "file"),
        ('[evaluation]\ntasks = "questions"', 5, "evaluation.tasks", "folder"),
        ('[evaluation]\nsafety = "prompts"', 5, "evaluation.safety", "folder"),
        ('[calibration]\ntext = "mix.txt"', 5, "calibration.text", "file"),
    ],
)
def test_a_path_that_is_not_there_is_reported_at_its_key(
    tmp_path: Path, stated: str, line: int, key: str, kind: str
) -> None:
    content = MINIMAL.replace('checkpoint = "c"\n', f'checkpoint = "c"\n{stated}\n')
    if key != "checkpoint":
        (tmp_path / "c").mkdir()
    with pytest.raises(ProjectError) as caught:
        load(tmp_path, content).require_paths()
    assert caught.value.problem.startswith(f"{tmp_path / 'phipack.toml'}:{line}: {key}: {tmp_path}/")
    assert caught.value.problem.endswith(f": there is no such {kind}")
    assert caught.value.fix == "correct it: a path is relative to the project file's folder"


def test_a_path_that_is_nearly_right_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "my-phi").mkdir()
    project = load(tmp_path, MINIMAL.replace('"c"', '"my-pih"'))
    with pytest.raises(ProjectError, match="my-pih: there is no such folder") as caught:
        project.require_paths()
    assert caught.value.fix == "did you mean 'my-phi'? A path is relative to the project file's folder"
    (tmp_path / "my-pih").write_text("no folder")
    with pytest.raises(ProjectError, match="my-pih: this is no folder"):
        project.require_paths()
    project.require_paths(("evaluation", "calibration"))  # none is stated there


def test_optional_keys_have_defaults(tmp_path: Path) -> None:
    project = load(tmp_path, MINIMAL)
    assert project.settings == EvaluationSettings()
    assert (project.tracking_uri, project.store, project.gates) == (None, None, {})


def test_gates_of_cells_are_kept_by_who_asks_for_them(tmp_path: Path) -> None:
    coreml, gguf = load(tmp_path, PROJECT).cells
    assert (coreml.name, coreml.target.name, coreml.recipe) == ("iphone-15-coreml", "iphone-15", RECIPES["coreml-int4"])
    assert (coreml.context_length, gguf.context_length) == (2048, None)
    assert coreml.gates == {
        "cell": {"same_top_share": Gate(at_least=0.7)},
        "project": {"kl_mean": Gate(at_most=0.5)},  # the cell has its own gate on the other figure
        "target": target_named("iphone-15").gates,
    }
    assert gguf.name == "pixel-9"
    assert gguf.gates["project"] == {"kl_mean": Gate(at_most=0.5), "same_top_share": Gate(at_least=0.5)}
    assert "cell" not in gguf.gates


def test_gate_of_a_cell_does_not_replace_the_gate_of_its_target(tmp_path: Path) -> None:
    soft = "[[cells]]\ntarget = 'iphone-15'\nrecipe = 'gguf-q4_0'\ngates.predicted_memory_bytes = { at_most = 9e9 }\n"
    (cell,) = load(tmp_path, MINIMAL.partition("[[")[0] + soft).cells
    assert cell.gates["target"]["predicted_memory_bytes"] == Gate(at_most=cell.target.app_memory.value)
    assert cell.gates["cell"]["predicted_memory_bytes"] == Gate(at_most=9e9)


def test_cells_are_selected_by_name(tmp_path: Path) -> None:
    project = load(tmp_path, PROJECT)
    assert project.cells_named(()) == project.cells
    assert [cell.name for cell in project.cells_named(("pixel-9",))] == ["pixel-9"]
    with pytest.raises(ProjectError, match="no cell 'iphone-15'") as caught:
        project.cells_named(("pixel-9", "iphone-15"))
    assert caught.value.fix == "did you mean 'iphone-15-coreml'?"


def test_calibration_is_the_cells_else_the_projects_else_the_recipes(tmp_path: Path) -> None:
    cells = "".join(
        f'[[cells]]\ntarget = "iphone-15"\nname = "{name}"\nrecipe = "{recipe}"\n{own}\n'
        for name, recipe, own in (
            ("own", "gguf-q4_0", 'calibration = "full"'),
            ("default", "coreml-int4", ""),
            ("none", "onnx-int4", 'calibration = "none"'),
            ("wide", "gguf-f16", ""),
        )
    )
    head = MINIMAL.partition("[[cells]]")[0]
    project = load(tmp_path, head + '[calibration]\nlevel = "light"\ntext = "mix.txt"\n' + cells)
    assert [cell.calibration for cell in project.cells] == ["full", "light", "none", "none"]
    assert project.calibration == CalibrationSettings(tmp_path / "mix.txt")
    project = load(tmp_path, head + cells)
    assert [cell.calibration for cell in project.cells] == ["full", FOUR_BIT_CALIBRATION, "none", "none"]
    assert project.calibration == CalibrationSettings()


def test_sixteen_bits_are_not_calibrated(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r":7: cells.0.calibration: gguf-f16 stores 16-bit weights") as caught:
        load(tmp_path, MINIMAL.replace("gguf-q4_0", "gguf-f16") + 'calibration = "light"\n')
    assert 'calibration "none"' in caught.value.fix


@pytest.mark.parametrize(
    ("stated", "budget"),
    [
        ('size = { at_most = "2.0GB" }', Budget("bytes", 2_000_000_000)),
        ('size = { at_most = "1.9 GiB" }', Budget("bytes", 2_040_109_466)),
        ('size = "fit"', Budget("fit")),
        ("bits = 4.2", Budget("bits", 4.2)),
        ("bits = 4", Budget("bits", 4.0)),
        ("[cells.size]\nat_most = '950MB'", Budget("bytes", 950_000_000)),
        ("", None),
    ],
)
def test_a_budget_is_in_the_cells_recipe(tmp_path: Path, stated: str, budget: Budget | None) -> None:
    (cell,) = load(tmp_path, MINIMAL + stated).cells
    assert cell.recipe == replace(RECIPES["gguf-q4_0"], budget=budget)
    assert cell.calibration == FOUR_BIT_CALIBRATION


def test_a_budget_is_spent_by_calibration_in_eight_bits_too(tmp_path: Path) -> None:
    eight = MINIMAL.replace("gguf-q4_0", "gguf-q8_0")
    assert load(tmp_path, eight).cells[0].calibration == "none"
    assert load(tmp_path, eight + "bits = 5").cells[0].calibration == FOUR_BIT_CALIBRATION
    assert load(tmp_path, eight + 'bits = 5\ncalibration = "full"').cells[0].calibration == "full"


@pytest.mark.parametrize(
    ("stated", "problem", "fix"),
    [
        (
            'size = "2.0GB"',
            "7: cells.0.size: a size is a table or 'fit', not '2.0GB'",
            'write size = { at_most = "2.0GB"',
        ),
        ("size = 2.0", "7: cells.0.size: a size is a table or 'fit', not 2.0", 'write size = { at_most = "2.0GB" }'),
        (
            'size = { at_most = "2.0 gb" }',
            "7: cells.0.size.at_most: '2.0 gb' is not a size",
            "write a number and a unit",
        ),
        ('size = { at_most = "0.1B" }', "7: cells.0.size.at_most: '0.1B' is not a size", "write a number and a unit"),
        ('size = { at_most = "" }', "7: cells.0.size.at_most: '' is not a size", "write a number and a unit"),
        ('size = { at_most = "fit" }', "7: cells.0.size.at_most: 'fit' is not a size", "write a number and a unit"),
        ("size = { at_most = 2e9 }", "7: cells.0.size.at_most: Input should be a valid string", "write a string"),
        ('size = { at_mots = "1GB" }', "7: cells.0.size.at_mots: unknown key", "did you mean 'at_most'?"),
        ("size = {}", "7: cells.0.size.at_most: missing key", "add at_most"),
        ("bits = 0.5", "7: cells.0.bits: Input should be greater than or equal to 1", "write a number of at least 1"),
        ("bits = 17", "7: cells.0.bits: Input should be less than or equal to 16", "write a number of at most 16"),
        ("bits = nan", "7: cells.0.bits: Input should be", "write a number"),
        ("bits = true", "7: cells.0.bits: Input should be a valid number", "write a number"),
        ("bits = '4.2'", "7: cells.0.bits: Input should be a valid number", "write a number"),
        ('bits = 4.2\nsize = "fit"', "7: cells.0.bits: size and bits exclude one another", "keep one of the two"),
        (
            'calibration = "none"\nbits = 4.2',
            '8: cells.0.bits: a budget (4.2 bits) with calibration "none"',
            'choose calibration "light" or "full", or remove the budget',
        ),
        (
            'size = { at_most = "1GB" }\n[calibration]\nlevel = "none"',
            '7: cells.0.size: a budget (at most 1000000000 B) with calibration "none"',
            'choose calibration "light" or "full", or remove the budget',
        ),
    ],
)
def test_what_is_no_budget_is_refused_at_its_key(tmp_path: Path, stated: str, problem: str, fix: str) -> None:
    with pytest.raises(ProjectError) as caught:
        load(tmp_path, MINIMAL + stated)
    assert caught.value.problem.startswith(f"{tmp_path / 'phipack.toml'}:{problem}")
    assert caught.value.fix.startswith(fix)


def test_sixteen_bits_have_no_budget(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r":7: cells.0.size: a budget \(fit\) for gguf-f16, .* in 16 bits") as caught:
        load(tmp_path, MINIMAL.replace("gguf-q4_0", "gguf-f16") + 'size = "fit"')
    assert caught.value.fix.startswith("remove the budget of gguf-f16, or choose a recipe with fewer bits")


def test_a_kv_cache_is_in_the_cells_recipe(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL + 'kv_cache = "q8_0"').cells[0].recipe == replace(
        RECIPES["gguf-q4_0"], kv_cache="q8_0"
    )
    assert load(tmp_path, MINIMAL + 'kv_cache = "f16"').cells[0].recipe == RECIPES["gguf-q4_0"]
    both = load(tmp_path, MINIMAL + 'kv_cache = "q4_0"\nbits = 5').cells[0].recipe
    assert (both.kv_cache, both.budget) == ("q4_0", Budget("bits", 5.0))


@pytest.mark.parametrize(
    ("recipe", "stated", "problem", "fix"),
    [
        ("gguf-q4_0", '"q8"', "gguf-q4_0: unknown type of KV cache 'q8'", "did you mean 'q8_0'?"),
        ("gguf-q4_0", "8", "Input should be a valid string, not 8", "write a string"),
        ("onnx-int4", '"q8_0"', "onnx-int4: unknown type of KV cache 'q8_0'", "known: f32, int8"),
        (
            "coreml-int4",
            '"q8_0"',
            "coreml-int4 with a KV cache in q8_0: ",
            "remove the type of the KV cache",
        ),
    ],
)
def test_what_is_no_kv_cache_is_refused_at_its_key(
    tmp_path: Path, recipe: str, stated: str, problem: str, fix: str
) -> None:
    with pytest.raises(ProjectError) as caught:
        load(tmp_path, MINIMAL.replace("gguf-q4_0", recipe) + f"kv_cache = {stated}")
    assert caught.value.problem.startswith(f"{tmp_path / 'phipack.toml'}:7: cells.0.kv_cache: {problem}")
    assert caught.value.fix.startswith(fix)


def test_a_cache_that_needs_a_calibration_is_refused_without_one(tmp_path: Path) -> None:
    cell = MINIMAL.replace("gguf-q4_0", "onnx-int4") + 'kv_cache = "int8"'
    for text, key in (
        (f'{cell}\ncalibration = "none"', "cells.0.calibration"),
        (f'{cell}\n[calibration]\nlevel = "none"', "cells.0.kv_cache"),
    ):
        with pytest.raises(ProjectError, match=f'{key}: onnx-int4 with a KV cache in int8 and calibration "none"'):
            load(tmp_path, text)
    sixteen = load(tmp_path, cell.replace("onnx-int4", "onnx-fp16"))
    assert sixteen.cells[0].calibration == "light"


def test_two_cells_with_one_name_are_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, 'target = "pixel-9"', 'target = "pixel-9"\nname = "iphone-15-coreml"')
    assert error.problem.endswith("phipack.toml:24: cells.1.name: two cells are called 'iphone-15-coreml'")
    assert error.fix == "give one of them another name"
    with pytest.raises(ProjectError, match=r"phipack.toml:8: cells.1.target: two cells are called 'iphone-15'"):
        load(tmp_path, MINIMAL + "[[cells]]\ntarget = 'iphone-15'\nrecipe = 'onnx-int4'")


@pytest.mark.parametrize(
    ("old", "new", "problem", "fix"),
    [
        ('"smollm2-135m"', '"SmolLM2"', "1: model: 'SmolLM2' is not a valid name of a model", "a name has lower-case"),
        ('"smollm2-135m"', '"a..b"', "1: model: 'a..b' is not a valid name of a model", "a name has lower-case"),
        ('"1.0.0-rc.1"', '"v1"', "2: version: 'v1' is not a version", "write it without 'v'"),
        ('"1.0.0-rc.1"', '"1.0"', "2: version: '1.0' is not a version", "write all three numbers: 1.0.0"),
        ('"1.0.0-rc.1"', '"^1.0"', "2: version: '^1.0' is not a version", "write one version, such as 1.2.0"),
        (
            '"1.0.0-rc.1"',
            "1.0",
            "2: version: Input should be a valid string, not 1.0",
            "write a string in quotes: version",
        ),
        (
            '"models/smollm2"',
            '""',
            "3: checkpoint: String should have at least 1 character",
            "write at least 1 character",
        ),
        (
            "tokens = 2048",
            "tokens = 0",
            "7: evaluation.tokens: Input should be greater than or equal to 64, not 0",
            "write a number of at least 64",
        ),
        (
            "tokens = 2048",
            "tokens = 4e3",
            "7: evaluation.tokens: Input should be a valid integer, not 4000.0",
            "write a whole number",
        ),
        ("window = 256", "windows = 256", "8: evaluation.windows: unknown key", "did you mean 'window'?"),
        (
            "at_most = 0.5",
            "at_least = 0.5",
            "11: gates.kl_mean: kl_mean is better the lower it is: >= 0.5 lets every worse bundle pass",
            "bound it by at_most (<=)",
        ),
        ("kl_mean", "kl_men", "11: gates.kl_men: unknown figure 'kl_men'", "did you mean 'kl_mean'?"),
        ("at_most = 0.5", "at_mots = 0.5", "11: gates.kl_mean.at_mots: unknown key", "did you mean 'at_most'?"),
        (
            "at_most = 0.5",
            "at_most = 0.5, at_least = 0",
            "11: gates.kl_mean: a gate needs exactly one of at_least and at_most",
            "set at_least for a lower bound, or at_most",
        ),
        ('"iphone-15"', '"iphon-15"', "15: cells.0.target: unknown target 'iphon-15'", "did you mean 'iphone-15'?"),
        (
            '"coreml-int4"',
            '"coreml-int3"',
            "16: cells.0.recipe: unknown recipe 'coreml-int3'",
            "did you mean 'coreml-int4'?",
        ),
        (
            '"iphone-15-coreml"',
            '"iPhone"',
            "17: cells.0.name: 'iPhone' is not a valid name of a cell",
            "a name has lower-case",
        ),
        (
            "context_length = 2048",
            "context_length = 0",
            "18: cells.0.context_length: Input should be greater",
            "write a number of at least 1",
        ),
        ("context_length", "contextlength", "18: cells.0.contextlength: unknown key", "did you mean 'context_length'?"),
        (
            "at_least = 0.7",
            "at_least = nan",
            "20: cells.0.gates.same_top_share.at_least: Input should be a finite",
            "write a number other than inf and nan",
        ),
        ('recipe = "gguf-q8_0"', "", "22: cells.1.recipe: missing key", "add recipe = …"),
        ('recipe = "gguf-q8_0"', 'recpie = "gguf-q8_0"', "24: cells.1.recpie: unknown key", "did you mean 'recipe'?"),
        ('"pixel-9"', '"mine.toml"', "23: cells.1.target: a cell whose target is a file needs a name", "add name"),
        (
            "[registry]",
            "[calibration]\nlevel = 'lite'\n[registry]",
            "27: calibration.level: Input should be 'none', 'light' or 'full', not 'lite'",
            "write one of 'none', 'light' or 'full'",
        ),
        (
            "[registry]",
            "[calibration]\nlevle = 'full'\n[registry]",
            "27: calibration.levle: unknown key",
            "did you mean 'level'?",
        ),
        ("[registry]", "[regsitry]", "26: regsitry: unknown key", "did you mean 'registry'?"),
        ('"1.0.0-rc.1"', '"1.0.0', "2: ", "correct the TOML on this line"),
    ],
)
def test_project_error_has_line_key_and_fix(tmp_path: Path, old: str, new: str, problem: str, fix: str) -> None:
    error = refused(tmp_path, old, new)
    assert error.problem.startswith(f"{tmp_path / 'phipack.toml'}:{problem}")
    assert error.fix.startswith(fix)


def test_project_without_cells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"phipack.toml:1: cells: missing key"):
        load(tmp_path, MINIMAL.partition("[[")[0])
    with pytest.raises(ProjectError, match=r"phipack.toml:4: cells: List should have at least 1 item"):
        load(tmp_path, MINIMAL.partition("[[")[0] + "cells = []")


def test_target_may_be_a_file_relative_to_the_project(tmp_path: Path) -> None:
    (tmp_path / "phones").mkdir()
    (tmp_path / "phones/mine.toml").write_text(
        'name = "mine"\ntitle = "Mine"\nsoc = "x"\nos = "Android"\nminimum_os = "14"\n'
        + "".join(
            f'{key} = {{ value = {value}, source = "a guess", confirmed = false }}\n'
            for key, value in (
                ("ram", 8e9),
                ("app_memory", 4e9),
                ("memory_bandwidth", 5e10),
                ("decode_efficiency.gguf", 0.5),
            )
        )
    )
    mine = MINIMAL.replace('"iphone-15"', '"phones/mine.toml"\nname = "my-phone"')
    (cell,) = load(tmp_path, mine).cells
    assert (cell.name, cell.target.name, cell.target.formats) == ("my-phone", "mine", ("gguf",))
    (tmp_path / "phones/mine.toml").unlink()
    with pytest.raises(ProjectError, match=r"phipack.toml:5: cells.0.target: .*mine.toml: there is no such file"):
        load(tmp_path, mine)


def test_missing_project_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"phipack.toml: can't be read: No such file"):
        load_project(tmp_path / "phipack.toml")


def test_one_target_may_have_cells_of_two_context_lengths(tmp_path: Path) -> None:
    """llama.cpp chooses longrope's factors by the context: an app may need a bundle for each set."""
    short, long = (
        f'[[cells]]\ntarget = "pixel-9"\nrecipe = "gguf-q4_0"\nname = "pixel-9-{name}"\ncontext_length = {length}\n'
        for name, length in (("short", 4096), ("long", 16384))
    )
    cells = load(tmp_path, MINIMAL.partition("[[cells]]")[0] + short + long).cells
    assert [(cell.name, cell.context_length) for cell in cells] == [("pixel-9-short", 4096), ("pixel-9-long", 16384)]
