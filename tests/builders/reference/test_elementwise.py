"""Exponentials with several numbers of threads, against torch's own, whose last bits depend on them."""

from __future__ import annotations

import json
import subprocess
import sys

_DIGESTS = """
import hashlib, json
import torch
from builders.reference.elementwise import few_at_once

random = torch.Generator().manual_seed(0)
gate, _ = torch.randn(1024, 2560, generator=random).chunk(2, dim=-1)
functions = {"silu": torch.nn.functional.silu, "sigmoid": torch.sigmoid, "exp": torch.exp, "expm1": torch.expm1}
found = {"own": {}, "torch's": {}}
for name, function in functions.items():
    for kind, made in (("own", lambda rows: few_at_once(function, rows)), ("torch's", function)):
        digests = set()
        for threads in (1, 2, 3, 5, 7, 24):
            torch.set_num_threads(threads)
            digests.add(hashlib.sha256(made(gate).contiguous().numpy().tobytes()).hexdigest())
        found[kind][name] = len(digests)
    assert torch.allclose(few_at_once(function, gate), function(gate))
print(json.dumps(found))
"""


def test_the_number_of_threads_does_not_change_the_bits() -> None:
    found = json.loads(subprocess.check_output([sys.executable, "-c", _DIGESTS], text=True))
    assert set(found["own"].values()) == {1}
    assert max(found["torch's"].values()) > 1  # else there is nothing to see here, and `few_at_once` can go
