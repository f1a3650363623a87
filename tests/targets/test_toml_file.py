"""TOML files read into models: every error has file, line, key and fix."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from targets.errors import TargetError
from targets.toml_file import RefusedValueError, line_of, located, parse_toml, read_toml


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Engine(Strict):
    power: float
    fuel: Literal["wood", "coal"] = "coal"


class Wagon(Strict):
    seats: Annotated[int, Field(ge=1)] = 1
    lamps: dict[Literal["oil", "gas"], int] = Field(default_factory=dict)

    @field_validator("seats")
    @classmethod
    def _even(cls, seats: int) -> int:
        if seats % 2:
            raise RefusedValueError("seats come in pairs", fix="add one")
        return seats


class Train(Strict):
    name: str
    engine: Engine
    wagons: list[Wagon] = Field(default_factory=list)
    spare: dict[str, Engine] = Field(default_factory=dict)


GOOD = """\
name = "Rocket"  # 1829

[engine]
power = 15
fuel = "wood"

[[wagons]]
seats = 4

[[wagons]]
seats = 6
lamps = { oil = 2 }

[spare]
first = { power = 3.5 }
"""


TWICE = "keep one of the two"


def refused(source: str) -> TargetError:
    with pytest.raises(TargetError) as caught:
        parse_toml(source, Train, TargetError, name="train.toml")
    return caught.value


def test_valid_file_is_read() -> None:
    train = parse_toml(GOOD, Train, TargetError, name="train.toml")
    assert train.wagons[1].lamps == {"oil": 2}
    assert train.spare["first"].power == 3.5


@pytest.mark.parametrize(
    ("old", "new", "problem", "fix"),
    [
        ("power = 15", "", "train.toml:3: engine.power: missing key", "add power = …"),
        ('name = "Rocket"', "", "train.toml:1: name: missing key", "add name = …"),
        ("power = 15", "powr = 15", "train.toml:4: engine.powr: unknown key", "did you mean 'power'?"),
        ("seats = 6", "seast = 6", "train.toml:11: wagons.1.seast: unknown key", "did you mean 'seats'?"),
        ("power = 3.5", "power = 3.5, coal = 1", "train.toml:15: spare.first.coal: unknown key", "known: fuel, power"),
        ("oil = 2", "oli = 2", "train.toml:12: wagons.1.lamps.oli: unknown key", "did you mean 'oil'?"),
        (
            "seats = 6",
            "seats = 0",
            "train.toml:11: wagons.1.seats: Input should be greater than or equal to 1, not 0",
            "write a number of at least 1",
        ),
        ("seats = 6", "seats = 7", "train.toml:11: wagons.1.seats: seats come in pairs", "add one"),
        (
            "seats = 6",
            "seats = true",
            "train.toml:11: wagons.1.seats: Input should be a valid integer, not True",
            "write a whole number without quotes or a decimal point: seats = 1",
        ),
        (
            "power = 15",
            'power = "15"',
            "train.toml:4: engine.power: Input should be a valid number, not '15'",
            "write a number without quotes: power = 1.0",
        ),
        (
            'fuel = "wood"',
            'fuel = "peat"',
            "train.toml:5: engine.fuel: Input should be 'wood' or 'coal', not 'peat'",
            "write one of 'wood' or 'coal'",
        ),
        ("[engine]\n", "[engines]\n", "train.toml:3: engines: unknown key", "did you mean 'engine'?"),
    ],
)
def test_error_has_line_key_and_fix(old: str, new: str, problem: str, fix: str) -> None:
    assert GOOD.count(old) == 1
    error = refused(GOOD.replace(old, new))
    assert error.problem == problem
    assert error.fix == fix


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"Rocket"', "Rocket", "train.toml:1: Invalid value"),
        ("power = 15", "power = 15\npower = 16", "train.toml:5: this key, or a part of it, is there already"),
        ("[spare]", "[spare", "train.toml:14: "),
        ("power = 3.5 }", "power = 3.5", "train.toml:15: "),
    ],
)
def test_syntax_error_has_its_line(old: str, new: str, problem: str) -> None:
    error = refused(GOOD.replace(old, new))
    assert error.problem.startswith(problem)
    assert error.fix in ("correct the TOML on this line: a string needs quotes, a table needs a [header]", TWICE)


@pytest.mark.parametrize(
    ("old", "new", "problem", "fix"),
    [
        (
            "[[wagons]]\nseats = 4\n\n[[wagons]]\nseats = 6",
            "[wagons]\nseats = 4",
            "train.toml:7: wagons: one table, where a list of tables is needed",
            "write [[wagons]], with double brackets, for each of them",
        ),
        (
            "[[wagons]]\nseats = 4\n\n[[wagons]]",
            "[wagons]\nseats = 4\n\n[wagons]",
            "train.toml:10: [wagons] is there twice",
            "keep one; where each is one of several, write [[wagons]] for each",
        ),
        (
            "[engine]",
            "[[engine]]",
            "train.toml:3: engine: a list, where one table is needed",
            "write [engine] once, with single brackets",
        ),
        (
            "first = { power = 3.5 }",
            "first = 3.5",
            "train.toml:15: spare.first: must be a table, not 3.5",
            "write a table: first = { … }, with keys of power, fuel",
        ),
        (
            "first = { power = 3.5 }",
            'name = "Rocket"',
            "train.toml:15: spare.name: must be a table, not 'Rocket'",
            "name is a key of the whole file: move it to the top, above the first [header]",
        ),
        (
            "seats = 4",
            'name = "Rocket"',
            "train.toml:8: wagons.0.name: unknown key",
            "name is a key of the whole file: move it to the top, above the first [header]",
        ),
    ],
)
def test_a_table_of_another_shape_is_shown_as_it_must_be(old: str, new: str, problem: str, fix: str) -> None:
    assert GOOD.count(old) == 1
    error = refused(GOOD.replace(old, new))
    assert (error.problem, error.fix) == (problem, fix)


@pytest.mark.parametrize("value", ['"red"', '["red"]'])
def test_a_list_of_tables_that_is_none_is_shown_as_one(value: str) -> None:
    error = refused(f'wagons = {value}\nname = "x"\nengine = {{ power = 1 }}\n')
    assert "train.toml:1: wagons" in error.problem
    assert error.fix == "write [[wagons]]"


def test_a_key_is_located_again_in_its_file(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(GOOD, "utf-8")
    assert located(path, ("wagons", 1, "seats")) == f"{path}:11: wagons.1.seats"
    path.unlink()
    assert located(path, ("name",)) == f"{path}: name"


def test_first_error_in_file_order_is_reported() -> None:
    broken = GOOD.replace("seats = 4", "seats = 5").replace("power = 3.5", "power = ''")
    assert refused(broken).problem.startswith("train.toml:8: ")
    assert refused(broken.replace("power = 15", "power = ''")).problem.startswith("train.toml:4: ")


def test_long_value_is_shortened() -> None:
    assert len(refused(GOOD.replace("power = 15", f"power = '{'x' * 5000}'")).problem) < 200


@pytest.mark.parametrize("source", ["a = " + "[" * 9000, "a = " + "9" * 9000, "a = 'x", "\0", "name = 1979-99-99"])
def test_text_that_the_parser_rejects_raises_target_error(source: str) -> None:
    assert refused(source).problem.startswith("train.toml:1: ")


def test_error_in_a_deeply_nested_file_raises_target_error() -> None:
    for depth in range(1, 900, 7):
        assert refused("name = " + "[" * depth + "]" * depth).problem.startswith("train.toml:1: ")


DEEP = "tables or arrays nested deeper than 32 levels"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("\nx = " + "[" * 2000 + "]" * 2000, f"2: {DEEP}"),
        ("\nx = [" + "[" * 40 + "]" * 40 + "]", f"2: {DEEP}"),
        ("x = " + "{a=" * 2000 + "1" + "}" * 2000, f"1: {DEEP}"),
        ("\n\n" + ".".join("a" * 5000) + " = 1", f"3: {DEEP}"),
        ("\n[" + ".".join("a" * 50) + "]", f"2: {DEEP}"),
        ("\nversion = 0x" + "f" * 5000, "2: version: an integer of more than 64 bits"),
        ("x = [1, 0b1" + "0" * 64 + "]", "1: x.1: an integer of more than 64 bits"),
    ],
)
def test_what_no_project_has_is_refused_in_one_sentence(source: str, problem: str) -> None:
    assert refused(source).problem.startswith(f"train.toml:{problem}")


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(TargetError, match="more than 131072 bytes"):
        read_toml(path, Train, TargetError)


@pytest.mark.parametrize("filler", ["# x\r\n", "# \N{LATIN SMALL LETTER E WITH ACUTE}\n"])
def test_a_large_file_is_not_read_in_part(tmp_path: Path, filler: str) -> None:
    """It has fewer characters than bytes: what follows the limit must not be left out."""
    path = tmp_path / "train.toml"
    path.write_bytes((GOOD + filler * 30_000).encode() + b"odd = 1\n")
    with pytest.raises(TargetError, match="more than 131072 bytes"):
        read_toml(path, Train, TargetError)


def test_line_ends_of_any_system_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_bytes(GOOD.replace("\n", "\r\n").encode() + b"odd = 1\r\n")
    with pytest.raises(TargetError, match=f"train.toml:{GOOD.count(chr(10)) + 1}: "):
        read_toml(path, Train, TargetError)


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(GOOD, "utf-8-sig")
    assert read_toml(path, Train, TargetError).name == "Rocket"


def test_unreadable_file_is_reported(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes('name = "Zürich"'.encode("latin-1"))
    for path, reason in ((tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory"), (latin, "not UTF-8")):
        with pytest.raises(TargetError, match=rf"{path.name}: can't be read: .*{reason}"):
            read_toml(path, Train, TargetError)
    with pytest.raises(TargetError, match="can't be read: embedded null byte"):
        read_toml(Path("a\0.toml"), Train, TargetError)


def test_missing_key_has_the_line_of_its_nearest_table() -> None:
    assert line_of(GOOD, ("wagons", 1, "doors", 3)) == 10
    assert line_of(GOOD, ("wagons", 7)) == 7
    assert line_of(GOOD, ("nothing",)) == 1
    assert line_of("", ("nothing",)) == 1


@given(st.text(max_size=60))
def test_any_invalid_text_raises_target_error_with_its_file(source: str) -> None:
    with pytest.raises(TargetError) as caught:
        parse_toml(source, Train, TargetError, name="train.toml")
    assert caught.value.problem.startswith("train.toml:")
