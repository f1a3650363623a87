"""The same bytes whatever the number of threads, which numeric libraries read once, when they are loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkpoints import Tiny, write_tiny

_ROUND = """
import hashlib
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from builders.quantization.grids.affine import AffineGrid
from builders.quantization.rounding.gptq import Curvature, round_matrix
from builders.quantization.rounding.refit import refit_scales
from builders.threads import single_threaded_products

random = np.random.default_rng(0)
inputs = random.normal(size=(640, 640)).astype(np.float32)
moments = np.einsum("ij,kj->ik", inputs, inputs) / 640
weights = random.normal(size=(600, 640)).astype(np.float32)

def digest():
    made = round_matrix(weights, AffineGrid(32), [moments], refit_scales)
    with single_threaded_products():
        made += (Curvature.of(moments).factor,)
    return hashlib.sha256(b"".join(array.tobytes() for array in made)).hexdigest()

pools = [ThreadPoolExecutor(1) for _ in range(2)]  # threads that stay, as a converter's do
print(*(pool.submit(digest).result() for pool in pools * 2))
"""
_WALK = """
import hashlib, sys
from pathlib import Path
import numpy as np
from builders.checkpoint import open_checkpoint
from builders.reference import FloatReference

reference = FloatReference(open_checkpoint(Path(sys.argv[1])))
tokens = np.random.default_rng(0).integers(3, 300, size=(2, 256))
hidden = reference.hidden(tokens)
arrays = [hidden, reference.logits(hidden[0]), *reference.statistics(tokens).values()]
print(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest())
"""
_SENSITIVITIES = """
import hashlib, sys
from pathlib import Path
import numpy as np
from builders.checkpoint import open_checkpoint
from builders.quantization.sensitivity import sensitivities

checkpoint = open_checkpoint(Path(sys.argv[1]))
tokens = np.random.default_rng(0).integers(3, 300, size=(1, 256))

def rounded(name, matrix, squares):
    return np.round(matrix * 32) / np.float32(32)

found = sensitivities(checkpoint.architecture, checkpoint.open_tensors(), tokens, rounded)
print(hashlib.sha256(np.array([*found.values()]).tobytes()).hexdigest())
"""
_LIMITS = """
from concurrent.futures import ThreadPoolExecutor
import numpy
from threadpoolctl import threadpool_info, threadpool_limits
from builders.threads import single_threaded_products

def now():
    return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

def limited():
    with single_threaded_products():
        return now()

pools = [ThreadPoolExecutor(1) for _ in range(3)]  # threads that stay
print([pool.submit(limited).result() for pool in pools * 2], now())
if OWNED:
    owner = pools[0].submit(threadpool_limits, 2).result()
    print(pools[1].submit(limited).exception())
"""
_LOADED_LATER = """
import numpy
import builders.threads
from builders.threads import single_threaded_products
from threadpoolctl import threadpool_info

limit = builders.threads._in_short_thread

def limit_and_load(work):
    done = limit(work)
    import scipy.linalg  # as numba's compiler does, in a thread of its own
    return done

builders.threads._in_short_thread = limit_and_load
with single_threaded_products():
    print(sorted(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"))
"""


def test_the_number_of_threads_does_not_change_the_bytes() -> None:
    digests = set[str]()
    for threads in ("1", "2"):
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        digests.update(subprocess.check_output([sys.executable, "-c", _ROUND], env=environment, text=True).split())
    assert len(digests) == 1


@pytest.mark.parametrize("measured", [_WALK, _SENSITIVITIES], ids=["statistics", "sensitivities"])
def test_the_number_of_threads_does_not_change_what_is_measured(tmp_path: Path, measured: str) -> None:
    folder = write_tiny(tmp_path / "wide", Tiny(hidden=576, heads=9, kv_heads=9), num_hidden_layers=1)
    digests = set[str]()
    for threads in ("1", "2"):
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        digests.add(subprocess.check_output([sys.executable, "-c", measured, folder], env=environment, text=True))
    assert len(digests) == 1


def _limits(*, owned: bool) -> list[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    source = _LIMITS.replace("OWNED", str(owned))
    return subprocess.check_output([sys.executable, "-c", source], env=environment, text=True).splitlines()


def test_products_are_limited_whichever_thread_asks() -> None:
    assert _limits(owned=False) == ["[[1], [1], [1], [1], [1], [1]] [2]"]


def test_a_library_that_is_loaded_meanwhile_is_not_numpys() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    found = subprocess.check_output([sys.executable, "-c", _LOADED_LATER], env=environment, text=True)
    assert found == "[1, 2]\n"  # numpy's, and scipy's


def test_other_code_that_decides_the_number_of_threads_is_named() -> None:
    _, problem, _ = _limits(owned=True)
    assert "keeps its number of threads" in problem
