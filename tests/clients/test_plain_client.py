"""The sample client trusts what the project's publisher signs, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.plain_client import Refused, Trust, place_of
from tests.registry.catalogs import Publisher
from tests.registry.servers import serving

_CHANNEL = "phi/channels/production.json"


def test_the_page_s_test_vector() -> None:
    assert place_of("phi-3-mini", "1.4.0", "0f2e") == 1556


def test_a_channel_is_trusted_and_a_changed_one_or_another_root_is_refused(tmp_path: Path) -> None:
    publisher, other = Publisher(tmp_path / "one"), Publisher(tmp_path / "other")
    publisher.release("1.0.0")
    publisher.publish()
    with serving(publisher.place.root) as url:
        trust = Trust(url, tmp_path / "trust", publisher.root.read_bytes())
        targets = trust.refresh()
        channel = trust.document(targets, _CHANNEL, "phipack.channel/1")
        assert channel["cells"]["iphone-15"] == [{"release": "1.0.0", "basis_points": 10_000}]
        with pytest.raises(Refused, match="good signatures"):
            Trust(url, tmp_path / "wrong", other.root.read_bytes()).refresh()
        changed = next(publisher.place.root.glob("targets/phi/channels/*.json"))
        changed.write_bytes(changed.read_bytes().replace(b"1.0.0", b"1.0.1"))
        with pytest.raises(Refused, match="was changed"):
            trust.document(targets, _CHANNEL, "phipack.channel/1")
