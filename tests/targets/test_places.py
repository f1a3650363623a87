"""Slips in the name of a store are refused, with what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from targets.places import store_problem


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("", "leave it out for the default"),
        ("  ", "leave it out for the default"),
        ("s3:/bucket/x", "did you mean s3://bucket/x?"),
        ("s3:bucket/x", "did you mean s3://bucket/x?"),
        ("phipack-s3:/bucket/x", "did you mean s3://bucket/x?"),
        ("file:/srv/store", "did you mean file:///srv/store?"),
        ("file:relative", f"did you mean file://{Path.cwd()}/relative?"),
        ("file://relative/store", "write file:///relative/store"),
        ("~/store", f"write the folder itself: {Path.home()}/store"),
        ("~nobody-at-all/store", "write the folder itself: /ABSOLUTE/PATH/store"),
        ("s3://", "use s3://BUCKET/PREFIX"),
        ("s3:///x", "use s3://BUCKET/PREFIX"),
        ("s3://KEY:secret@bucket/x", "use s3://BUCKET/PREFIX"),
        ("s3://bucket/a?b", "plain names"),
        ("s3://bucket/a#b", "plain names"),
        ("s3://bucket/a/../b", "plain names"),
        ("gopher://x", "s3://BUCKET/PREFIX"),
    ],
)
def test_what_is_no_store_is_refused_with_what_was_meant(text: str, fix: str) -> None:
    found = store_problem(text)
    assert found is not None
    assert fix in found[1]
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    "text", ["store", "/srv/a b", "./~x", "file:///srv/store", "s3://bucket", "s3://b/a b/c", "c:x", "a@b"]
)
def test_a_store_is_a_store(text: str) -> None:
    assert store_problem(text) is None
