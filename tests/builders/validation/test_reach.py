"""What evidence says of a checkpoint's window and rope."""

from __future__ import annotations

from builders.validation.by_text import reach_of
from targets.config_json import read_architecture
from tests.support.checkpoints import Tiny


def test_other_factors_of_longrope_make_another_rope() -> None:
    """Nothing else in the evidence shows them."""
    config = Tiny(context=512, original_context=128).config()
    scaling = config["rope_scaling"]
    ropes = [
        reach_of(read_architecture(config | {"rope_scaling": scaling | changes})).rope
        for changes in ({}, {"long_factor": [2 * one for one in scaling["long_factor"]]}, {})
    ]
    assert ropes[0] == ropes[2] != ropes[1]
    assert {one.rpartition(" ")[0] for one in ropes} == {"longrope past 128 tokens, base 10,000, factors"}
    assert reach_of(read_architecture(Tiny().config())).rope == "plain, base 10,000"
