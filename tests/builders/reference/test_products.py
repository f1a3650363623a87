"""Products against float64, and their bits with several numbers of threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from builders.reference import products
from builders.reference.products import bfloat16_parts, bfloat16_product, has_bfloat16_products, product
from tests.support.checkpoints import Tiny, write_tiny

_DIGESTS = """
import hashlib
import torch
from builders.reference.products import bfloat16_parts, bfloat16_product, product

random = torch.Generator().manual_seed(0)
for rows, columns, height in ((192, 8192, 256), (33, 8192, 3072), (1, 8192, 512), (256, 4096, 200)):
    left, right = torch.randn(rows, columns, generator=random), torch.randn(height, columns, generator=random)
    parts = bfloat16_parts(right)
    for made_by in (lambda: product(left, right), lambda: bfloat16_product(bfloat16_parts(left), parts)):
        found = set()
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            made = made_by()
            found.add(hashlib.sha256(made.numpy().tobytes()).hexdigest())
        print(len(found))
"""
_WALK = """
import hashlib, sys
from pathlib import Path
import numpy as np
import torch
from builders.checkpoint import open_checkpoint
from builders.quantization.calibration.moments import _Moments
from builders.reference import FloatReference
from builders.reference.forward import StatisticsWalk
from targets.progress import silent

checkpoint = open_checkpoint(Path(sys.argv[1]))
tokens = np.random.default_rng(0).integers(3, 300, size=(2, 512))
found = set()
for threads in (1, 2, 3, 7, 16, 24, 31):
    torch.set_num_threads(threads)
    reference, moments = FloatReference(checkpoint), _Moments()
    StatisticsWalk(checkpoint.architecture, checkpoint.open_tensors(), tokens, moments).run_all(silent)
    arrays = [reference.hidden(tokens), *reference.statistics(tokens).values()]
    arrays += [block for name in list(moments._sums) for block in moments.taken(name)]
    found.add(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest())
print(len(found))
"""


def _inputs(columns: int = 500) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    shapes = ((37, columns), (90, columns), (90,))
    rows, matrix, bias = (torch.randn(*shape, generator=random) for shape in shapes)
    return rows, matrix, bias


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("columns", [500, 1024, 2500])
def test_they_are_those_of_float64(columns: int, with_bias: bool) -> None:
    rows, matrix, bias = _inputs(columns)
    more = bias.double() if with_bias else 0
    found = product(rows, matrix, bias if with_bias else None)
    short = bfloat16_product(bfloat16_parts(rows), bfloat16_parts(matrix), bias if with_bias else None)
    assert found.dtype == short.dtype == torch.float32
    close = {"rtol": 1e-5, "atol": 2e-4}
    torch.testing.assert_close(found.double(), rows.double() @ matrix.double().T + more, **close)
    expected = rows.bfloat16().double() @ matrix.bfloat16().double().T + more
    torch.testing.assert_close(short.double(), expected, **close)
    assert (found - short).abs().max() > 0.01  # rounding to bfloat16 is seen above


def test_no_part_is_longer_than_what_one_thread_sums() -> None:
    parts = bfloat16_parts(_inputs(2500)[1])
    assert [part.shape[1] for part in parts] == [1024, 1024, 452]
    assert all(part.is_contiguous() for part in parts)


def test_columns_may_lie_apart_in_memory() -> None:
    rows, matrix, _ = _inputs()
    apart = rows.T.contiguous().T
    assert torch.equal(product(apart, matrix), product(rows, matrix))


def test_without_onednn_torchs_own_product_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, matrix, bias = _inputs()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert torch.equal(product(rows, matrix, bias), torch.nn.functional.linear(rows, matrix, bias))
    short = torch.nn.functional.linear(rows.bfloat16().float(), matrix.bfloat16().float(), bias)
    assert torch.equal(bfloat16_product(bfloat16_parts(rows), bfloat16_parts(matrix), bias), short)


def test_the_processors_bfloat16_is_a_setting_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = torch.backends.mkldnn.matmul
    seen: list[str] = []
    own = products.product

    def watched(*inputs: torch.Tensor) -> torch.Tensor:
        seen.append(setting.fp32_precision)
        return own(*inputs)

    monkeypatch.setattr(products, "has_bfloat16_products", lambda: True)
    monkeypatch.setattr(products, "product", watched)
    before = setting.fp32_precision
    rows, matrix, _ = _inputs()
    bfloat16_product(bfloat16_parts(rows), bfloat16_parts(matrix))
    products.product(rows, matrix)
    assert seen == ["bf16", before]
    assert setting.fp32_precision == before


def test_the_processor_is_asked() -> None:
    assert has_bfloat16_products() == bool(torch.cpu.get_capabilities().get("amx_bf16"))


def test_the_number_of_threads_does_not_change_the_bits() -> None:
    found = subprocess.check_output([sys.executable, "-c", _DIGESTS], text=True).split()
    assert found == ["1"] * 8


def test_the_number_of_threads_does_not_change_a_walk(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "c", Tiny(hidden=144, heads=9, kv_heads=9), num_hidden_layers=1)
    found = subprocess.check_output([sys.executable, "-c", _WALK, folder], text=True).split()
    assert found == ["1"]
