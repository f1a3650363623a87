"""What `phipack diff` says next to the figures of two sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from devtools.bundles import make_bundle, make_evidence
from phipack.commands.differences import _notes
from registry.diff.compare import folder_side
from targets.evidence_details import Details


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"text": "sha256:other"}, "measured on different texts: "),
        ({"checkpoint": "sha256:" + "9" * 64}, "compared with different checkpoints in float32: "),
        ({"target": "pixel-9"}, "predictions are of different phones: iphone-15; pixel-9"),
        ({"details": Details(suite="quick")}, "measured by different suites: not recorded; quick"),
    ],
)
def test_it_is_said_why_figures_are_not_comparable(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    """The same bundle for another phone had another predicted speed, and nothing said why."""
    bundle = make_bundle(tmp_path / "bundle", {"model.gguf": b"1"})
    one = replace(folder_side(bundle.path), evidence=make_evidence(bundle))
    other = replace(one, evidence=make_evidence(bundle).model_copy(update=changed))
    assert [said in note for note in _notes(one, other)] == ([True] if said else [])
