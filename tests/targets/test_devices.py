"""The devices that come with phipack, the sources of their figures, and a user's own target files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from targets.devices import Quantity, Target, load_targets, target_named
from targets.errors import TargetError
from targets.gates import Gate
from targets.recipes import RECIPES

ASKED_FOR = (
    *("iphone-14-pro", "iphone-15", "iphone-15-pro", "iphone-16", "iphone-16-pro", "iphone-17-pro", "ipad-air-m2"),
    *("galaxy-s23", "galaxy-s24", "galaxy-s25", "pixel-8-pro", "pixel-9", "pixel-10", "vivo-x100", "iphone-13-mini"),
)
# GB/s, from makers and published tables.
BANDWIDTHS = {
    "Apple A15": 34.1,
    "Apple A16": 51.2,
    "Apple A17 Pro": 51.2,
    "Apple A18": 60,
    "Apple A18 Pro": 60,
    "Apple A19 Pro": 75.8,
    "Apple M2": 100,
    "Apple M4": 120,
    "Snapdragon 8 Gen 2": 67.2,
    "Snapdragon 8 Gen 3": 76.8,
    "Snapdragon 8 Elite": 84.8,
    "Dimensity 9300": 76.8,
    "Dimensity 9400": 85.6,
    "Tensor G3": 68,
    "Tensor G4": 67.2,
    "Tensor G5": 68.3,
}
NOT_CONFIRMED = {"Apple A17 Pro", "Apple M4", "Dimensity 9300", "Tensor G3"}
MINE = """\
name = "my-phone"
title = "My phone"
soc = "Some SoC"
os = "Android"
minimum_os = "14"
ram = { value = 8e9, source = "a guess", confirmed = false }
app_memory = { value = 4e9, source = "a guess", confirmed = false }
memory_bandwidth = { value = 5e10, source = "a guess", confirmed = false }

[decode_efficiency]
gguf = { value = 0.5, source = "a guess", confirmed = false }

[gates]
same_top_share = { at_least = 0.9 }
"""


TARGETS = tuple(load_targets().values())
each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


def mine(tmp_path: Path, old: str = "", new: str = "") -> str:
    assert MINE.count(old) == 1 or not old
    path = tmp_path / "my-phone.toml"
    path.write_text(MINE.replace(old, new) if old else MINE)
    return str(path)


def test_all_required_devices_exist() -> None:
    assert set(ASKED_FOR) <= set(load_targets())
    assert all(name == target.name for name, target in load_targets().items())


def test_iphone_14_pro_and_15_have_the_a16() -> None:
    assert {target_named(name).soc for name in ("iphone-14-pro", "iphone-15")} == {"Apple A16"}


@each_target
def test_figures_are_published_or_marked_as_unconfirmed(target: Target) -> None:
    assert target.memory_bandwidth.value / 1e9 == pytest.approx(BANDWIDTHS[target.soc])
    assert target.memory_bandwidth.confirmed == (target.soc not in NOT_CONFIRMED)
    assert not target.app_memory.confirmed  # no maker publishes it
    assert target.ram.value / 2**30 in (4, 6, 8, 12, 16)


@each_target
def test_app_memory_is_a_third_to_two_thirds_of_ram(target: Target) -> None:
    assert 1 / 3 <= target.app_memory.value / target.ram.value <= 2 / 3


@each_target
def test_only_apple_devices_have_core_ml(target: Target) -> None:
    apple = target.os in ("iOS", "iPadOS")
    assert set(target.formats) == ({"coreml", "gguf", "onnx"} if apple else {"gguf", "onnx"})
    assert not apple or float(target.minimum_os) >= 18  # int4 blocks and state
    assert {recipe.format for recipe in RECIPES.values()} >= set(target.formats)
    assert target.store_limit is not None
    assert target.store_limit.value == (4e9 if apple else 1.5e9)


@each_target
def test_sources_do_not_name_internal_files(target: Target) -> None:
    figures = [target.ram, target.app_memory, target.memory_bandwidth, *target.decode_efficiency.values()]
    for figure in figures:
        assert not re.search(r"PHI3|\.md|TOOLCHAIN", figure.source)
        assert len(figure.source) > 10


def test_identifiers_are_unique() -> None:
    identifiers = [identifier for target in TARGETS for identifier in target.identifiers]
    assert len(set(identifiers)) == len(identifiers)
    assert all(target.identifiers for target in TARGETS)


@each_target
def test_every_device_has_a_memory_gate(target: Target) -> None:
    assert target.gates["predicted_memory_bytes"] == Gate(at_most=target.app_memory.value)


def test_description_has_exact_figures_with_their_sources() -> None:
    text = target_named("iphone-15").describe()
    assert re.search(r"^RAM, bytes +6,442,450,944; published teardowns", text, re.MULTILINE)
    assert re.search(r"^for an app, bytes +4,294,967,296 \(unconfirmed\); two thirds", text, re.MULTILINE)
    assert re.search(r"^efficiency, coreml +0.45; arXiv 2404.14219", text, re.MULTILINE)
    assert re.search(r"^gate +predicted_decode_tokens_per_second >= 6$", text, re.MULTILINE)


def test_unknown_target_suggests_the_most_similar_name() -> None:
    with pytest.raises(TargetError, match="unknown target 'iphone-15-por'") as caught:
        target_named("iphone-15-por")
    assert caught.value.fix == "did you mean 'iphone-15-pro'?"


def test_target_is_read_from_a_file(tmp_path: Path) -> None:
    target = target_named(mine(tmp_path))
    assert (target.name, target.formats, target.store_limit) == ("my-phone", ("gguf",), None)
    assert target.gates == {"predicted_memory_bytes": Gate(at_most=4e9), "same_top_share": Gate(at_least=0.9)}


def test_target_file_without_gates_has_a_memory_gate(tmp_path: Path) -> None:
    bare = mine(tmp_path, "[gates]\nsame_top_share = { at_least = 0.9 }\n", "")
    assert target_named(bare).gates == {"predicted_memory_bytes": Gate(at_most=4e9)}


def test_target_file_may_set_another_memory_gate(tmp_path: Path) -> None:
    own = mine(tmp_path, "same_top_share = { at_least = 0.9 }", "predicted_memory_bytes = { at_most = 3e9 }")
    assert target_named(own).gates == {"predicted_memory_bytes": Gate(at_most=3e9)}


@pytest.mark.parametrize(
    ("old", "new", "problem", "fix"),
    [
        (
            "same_top_share",
            "same_top_shape",
            "14: gates.same_top_shape: unknown figure 'same_top_shape'",
            "did you mean 'same_top_share'?",
        ),
        ("at_least", "at_lest", "14: gates.same_top_share.at_lest: unknown key", "did you mean 'at_least'?"),
        (
            "at_least = 0.9",
            "",
            "14: gates.same_top_share: a gate needs exactly one of at_least and at_most",
            "set at_least for a lower bound, or at_most for an upper bound",
        ),
        (
            "at_least = 0.9",
            "at_least = true",
            "14: gates.same_top_share.at_least: Input should be a valid",
            "write a number without quotes: at_least = 1.0",
        ),
        ("gguf =", "ggfu =", "11: decode_efficiency.ggfu: unknown key", "did you mean 'gguf'?"),
        (
            "value = 0.5",
            "value = 1.5",
            "11: decode_efficiency.gguf.value: the efficiency is a share of the bandwidth, at most 1",
            "write a number up to 1, such as 0.5 for half of the bandwidth",
        ),
        (
            "value = 8e9",
            "value = 0",
            "6: ram.value: Input should be greater than 0, not 0",
            "write a number greater than 0",
        ),
        (
            "value = 8e9",
            "value = inf",
            "6: ram.value: Input should be a finite number, not inf",
            "write a number other than inf and nan",
        ),
        (
            "value = 8e9",
            'value = "8 GB"',
            "6: ram.value: Input should be a valid number, not '8 GB'",
            "write a number without quotes: value = 1.0",
        ),
        (
            "value = 4e9",
            "value = 9e9",
            "7: app_memory.value: 9,000,000,000 bytes are more than the device's RAM",
            "write at most 8,000,000,000, the value of ram",
        ),
        (
            '"a guess", confirmed = false }\n\n[d',
            '"a guess" }\n\n[d',
            "8: memory_bandwidth.confirmed: missing key",
            "add confirmed = …",
        ),
        (
            'os = "Android"',
            'os = ""',
            "4: os: String should have at least 1 character, not ''",
            "write at least 1 character(s)",
        ),
        (
            '"my-phone"',
            '"My Phone"',
            "1: name: String should match pattern",
            "write a value that matches the regular expression ^[a-z0-9][a-z0-9._-]*$",
        ),
        (
            "[decode_efficiency]",
            "[decode_eficiency]",
            "10: decode_eficiency: unknown key",
            "did you mean 'decode_efficiency'?",
        ),
    ],
)
def test_target_file_error_has_line_key_and_fix(tmp_path: Path, old: str, new: str, problem: str, fix: str) -> None:
    path = mine(tmp_path, old, new)
    with pytest.raises(TargetError) as caught:
        target_named(path)
    assert caught.value.problem.startswith(f"{path}:{problem}")
    assert caught.value.fix == fix


def test_missing_target_file_is_reported() -> None:
    for name in ("./none", "none.toml"):
        with pytest.raises(TargetError, match="can't be read: No such file"):
            target_named(name)


def test_small_figures_are_shown_without_padding() -> None:
    assert str(Quantity(value=0.45, source="a test", confirmed=True)) == "0.45; a test"
