"""The same bytes whatever the number of threads, which numeric libraries read once, when they are loaded."""

from __future__ import annotations

import os
import subprocess
import sys

_ROUND = """
import hashlib
import numpy as np
from builders.quantization.grids.affine import AffineGrid
from builders.quantization.rounding.gptq import round_matrix
from builders.quantization.rounding.refit import refit_scales

random = np.random.default_rng(0)
inputs = random.normal(size=(640, 640)).astype(np.float32)
moments = np.einsum("ij,kj->ik", inputs, inputs) / 640
weights = random.normal(size=(600, 640)).astype(np.float32)
made = round_matrix(weights, AffineGrid(32), [moments], refit_scales)
print(hashlib.sha256(b"".join(array.tobytes() for array in made)).hexdigest())
"""


def test_the_number_of_threads_does_not_change_the_bytes() -> None:
    digests = set()
    for threads in ("1", "2", "3"):
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        digests.add(subprocess.check_output([sys.executable, "-c", _ROUND], env=environment, text=True))
    assert len(digests) == 1
