"""References, versions and ranges: grammar, order laws, membership."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.errors import MalformedReferenceError
from targets.references import Reference, Version, VersionRange, check_channel, check_name

numbers = st.integers(0, 30)
words = st.from_regex(r"[0-9]{0,2}[A-Za-z-][0-9A-Za-z-]{0,3}", fullmatch=True)
versions = st.builds(Version, numbers, numbers, numbers, st.lists(numbers | words, max_size=3).map(tuple))
names = st.from_regex(r"[a-z0-9]([._-]?[a-z0-9]){0,8}", fullmatch=True)
channels = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True).filter(
    lambda name: name != "latest" and not (name[0] == "v" and name[1:].isdigit())
)
ranges = st.builds(
    lambda sign, version, depth: sign + ".".join(str(version).split("-")[0].split(".")[:depth]),
    st.sampled_from("^~"),
    versions,
    st.integers(1, 3),
).map(VersionRange.parse)


# semver.org, rule 11
SEMVER_ORDER = [
    *("1.0.0-0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"),
    *("1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0-rc.1", "2.0.0"),
]


def test_version_order_matches_semver_org() -> None:
    parsed = [Version.parse(text) for text in SEMVER_ORDER]
    assert sorted(parsed, key=lambda version: version) == parsed
    assert all(a < b for a, b in itertools.pairwise(parsed))


@given(versions)
def test_version_round_trips_through_text(version: Version) -> None:
    assert Version.parse(str(version)) == version


@given(versions, versions, versions)
def test_version_order_is_total(a: Version, b: Version, c: Version) -> None:
    assert (a < b) + (a == b) + (a > b) == 1
    assert not (a <= b <= c) or a <= c


@given(versions)
def test_prerelease_is_lower_than_its_release(version: Version) -> None:
    release = Version(*version.core)
    assert version < release if version.prerelease else version == release


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "1.0", "1.0.0.0", "v1.0.0", "01.0.0", "1.0.0-", "1.0.0-01", "1.0.0-a..b", "1.0.0+build", "-1.0.0"),
        *(" 1.0.0", "1.0.0\n", "1.0.0-\u00fc", "\u0661.0.0", "9999999999.0.0"),
    ],
)
def test_malformed_version_is_refused(text: str) -> None:
    with pytest.raises(MalformedReferenceError, match="is not a version") as caught:
        Version.parse(text)
    assert caught.value.fix


def test_partial_version_error_suggests_ranges() -> None:
    with pytest.raises(MalformedReferenceError, match=r"\^1\.2 or ~1\.2"):
        Reference.parse("phi:1.2")


# What npm's semver.satisfies says.
@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        ("^1.2.3", "1.2.3 1.2.4 1.9.0", "1.2.2 2.0.0 2.0.0-0 0.9.9 1.3.0-rc.1 1.2.3-rc.1"),
        ("^1.2", "1.2.0 1.9.9", "1.1.9 2.0.0"),
        ("^1.0", "1.0.0 1.4.0", "0.9.0 2.0.0 1.0.0-rc.1"),
        ("^1", "1.0.0 1.9.9", "0.9.9 2.0.0 2.0.0-alpha"),
        ("^0.2.3", "0.2.3 0.2.9", "0.2.2 0.3.0 1.0.0"),
        ("^0.0.3", "0.0.3", "0.0.2 0.0.4"),
        ("^0.0", "0.0.0 0.0.9", "0.1.0"),
        ("^0", "0.0.0 0.9.9", "1.0.0"),
        ("~1.2.3", "1.2.3 1.2.9", "1.2.2 1.3.0"),
        ("~1.2", "1.2.0 1.2.9", "1.1.9 1.3.0"),
        ("~1", "1.0.0 1.9.9", "2.0.0"),
        ("~0.0.3", "0.0.3 0.0.9", "0.0.2 0.1.0"),
        ("^1.2.3-rc.2", "1.2.3-rc.2 1.2.3-rc.10 1.2.3 1.3.0", "1.2.3-rc.1 1.2.4-rc.3 2.0.0"),
        ("~1.2.3-rc.2", "1.2.3-rc.2 1.2.3 1.2.4", "1.2.4-rc.3 1.3.0"),
        ("1.2.3", "1.2.3", "1.2.4 1.2.3-rc.1"),
        ("1.2.3-rc.1", "1.2.3-rc.1", "1.2.3"),
    ],
)
def test_ranges_match_npm(written: str, inside: str, outside: str) -> None:
    wanted = VersionRange.parse(written)
    assert [text for text in inside.split() if Version.parse(text) not in wanted] == []
    assert [text for text in outside.split() if Version.parse(text) in wanted] == []


@pytest.mark.parametrize("text", ["^", "~", "^1.", "^v1", "^1.2.3.4", ">=1.0.0", "^01", "^1.x", "*", "^1.2-rc.1"])
def test_malformed_range_is_refused(text: str) -> None:
    with pytest.raises(MalformedReferenceError):
        VersionRange.parse(text)


@given(ranges, versions)
def test_range_is_an_interval_of_releases(wanted: VersionRange, version: Version) -> None:
    release = Version(*version.core)
    assert wanted.ceiling is not None
    assert (release in wanted) == (wanted.floor <= release < wanted.ceiling)
    assert wanted.floor in wanted
    assert not (version.prerelease and version in wanted)


@given(versions, versions)
def test_tilde_range_is_within_caret_range_from_version_1(floor: Version, version: Version) -> None:
    if floor.major and version in VersionRange.parse(f"~{floor}"):
        assert version in VersionRange.parse(f"^{floor}")


@given(names, st.none() | versions.map(str) | channels | ranges.map(str), st.none() | names)
def test_reference_round_trips_through_text(model: str, selector: str | None, cell: str | None) -> None:
    text = model + (f":{selector}" if selector else "") + (f"@{cell}" if cell else "")
    reference = Reference.parse(text)
    assert str(reference) == text
    assert (reference.model, reference.cell) == (model, cell)
    assert Reference.parse(str(reference)) == reference


def test_version_channel_and_range_are_distinguished() -> None:
    assert Reference.parse("phi-3-mini-4k-instruct:1.4.0@iphone-15") == Reference(
        "phi-3-mini-4k-instruct", version=Version(1, 4, 0), cell="iphone-15"
    )
    assert Reference.parse("phi:production").channel == "production"
    assert Reference.parse("phi:~1").range == VersionRange.parse("~1")
    assert Reference.parse("phi") == Reference("phi")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":",
            "@",
            "phi:",
            "phi@",
            "phi:@x",
            "Phi",
            "phi 3",
            "phi/3",
            "phi:1.0.0@",
            "phi@a@b",
            "phi:1.0.0:2",
            "../x",
        ),
        *(
            "phi:latest",
            "phi:v1",
            "phi:Production",
            "phi:prod_1",
            "-phi",
            ".phi",
            "phi@x/y",
            "phi..x",
            "p" * 101,
            "phi\n",
        ),
    ],
)
def test_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(MalformedReferenceError) as caught:
        Reference.parse(text)
    assert caught.value.fix


@given(st.text(max_size=20))
def test_any_text_is_a_reference_or_raises_an_error_with_a_fix(text: str) -> None:
    try:
        assert str(Reference.parse(text)) == text
    except MalformedReferenceError as error:
        assert error.fix  # noqa: PT017 - either outcome is right


def test_names_and_channels_can_be_checked_separately() -> None:
    check_name("cell", "galaxy-s24.int4")
    check_channel("canary-2")
    with pytest.raises(MalformedReferenceError, match="'latest'"):
        check_channel("latest")
