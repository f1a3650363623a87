"""Products against float64, and their bits with several numbers of threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from builders.reference import products
from builders.reference.products import (
    add_bfloat16_moments,
    bfloat16_parts,
    bfloat16_product,
    has_bfloat16_products,
    product,
)
from tests.support.checkpoints import Tiny, write_tiny

_DIGESTS = """
import hashlib, os
import torch
from builders.reference.products import bfloat16_parts, bfloat16_product, product

random = torch.Generator().manual_seed(0)
for rows, columns, height in ((192, 8192, 600), (33, 8192, 3072), (1, 8192, 512), (256, 4096, 200)):
    left, right = torch.randn(rows, columns, generator=random), torch.randn(height, columns, generator=random)
    parts = bfloat16_parts(right)
    for made_by in (lambda: product(left, right), lambda: bfloat16_product(bfloat16_parts(left), parts)):
        found = set()
        for threads in (1, 2, 3, 8):
            os.environ["OMP_NUM_THREADS"] = str(threads)  # as builders/threads.py reads it
            torch.set_num_threads(threads)
            made = made_by()
            found.add(hashlib.sha256(made.numpy().tobytes()).hexdigest())
        print(len(found))
"""
_WALK = """
import hashlib, os, sys
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
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    reference, moments = FloatReference(checkpoint), _Moments()
    StatisticsWalk(checkpoint.architecture, checkpoint.open_tensors(), tokens, moments).run_all(silent)
    arrays = [reference.hidden(tokens), *reference.statistics(tokens).values()]
    arrays += [block for name in list(moments._sums) for block in moments.taken(name)]
    found.add(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest())
print(len(found))
"""


def _inputs(rows: int = 37, columns: int = 500) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rows, a matrix of two pieces, and a bias."""
    random = torch.Generator().manual_seed(1)
    shapes = ((rows, columns), (600, columns), (600,))
    left, matrix, bias = (torch.randn(*shape, generator=random) for shape in shapes)
    return left, matrix, bias


@pytest.fixture(params=[False, True], ids=["float32", "bfloat16"])
def has_amx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether products of bfloat16 are left to oneDNN, which rounds what is rounded where there is no AMX."""
    monkeypatch.setattr(products, "has_bfloat16_products", lambda: request.param)
    return bool(request.param)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("columns", [500, 1024, 2500])
@pytest.mark.parametrize("rows", [37, 70])  # few, and more
def test_they_are_those_of_float64(rows: int, columns: int, with_bias: bool, has_amx: bool) -> None:
    left, matrix, bias = _inputs(rows, columns)
    more = bias.double() if with_bias else 0
    found = product(left, matrix, bias if with_bias else None)
    short = bfloat16_product(bfloat16_parts(left), bfloat16_parts(matrix), bias if with_bias else None)
    assert found.dtype == short.dtype == torch.float32
    close = {"rtol": 1e-5, "atol": 2e-4}
    torch.testing.assert_close(found.double(), left.double() @ matrix.double().T + more, **close)
    expected = left.bfloat16().double() @ matrix.bfloat16().double().T + more
    torch.testing.assert_close(short.double(), expected, **close)
    assert (found - short).abs().max() > 0.01  # rounding to bfloat16 is seen above


@pytest.mark.parametrize("columns", [100, 1300])
def test_moments_are_those_of_float64(columns: int, has_amx: bool) -> None:
    rows, _, _ = _inputs(200, columns)
    before = torch.randn(columns, columns, generator=torch.Generator().manual_seed(2))
    total = before.clone()
    add_bfloat16_moments(total, rows[:, :columns])
    added = rows.bfloat16().double().T @ rows.bfloat16().double()
    torch.testing.assert_close(total.double().tril(), (before + added).tril(), rtol=1e-5, atol=2e-4)


def test_no_part_is_longer_than_what_one_thread_sums(has_amx: bool) -> None:
    parts = bfloat16_parts(_inputs(37, 2500)[1])
    assert [part.shape[1] for part in parts] == ([1024, 1024, 452] if has_amx else [2500])
    assert all(part.is_contiguous() for part in parts)


@pytest.mark.parametrize("count", [37, 70])
def test_columns_may_lie_apart_in_memory(count: int) -> None:
    rows, matrix, _ = _inputs(count)
    apart = rows.T.contiguous().T
    assert torch.equal(product(apart, matrix), product(rows, matrix))
    assert torch.equal(product(torch.cat((rows, rows), dim=1)[:, :500], matrix), product(rows, matrix))


def test_few_rows_without_onednn_are_torchs_own_product(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, matrix, bias = _inputs()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert torch.equal(product(rows, matrix, bias), torch.nn.functional.linear(rows, matrix, bias))


def test_the_processors_bfloat16_is_a_setting_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = torch.backends.mkldnn.matmul
    seen: list[str] = []
    own = products._onednn_product

    def watched(rows: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        seen.append(setting.fp32_precision)
        return own(rows, matrix, bias)

    monkeypatch.setattr(products, "has_bfloat16_products", lambda: True)
    monkeypatch.setattr(products, "_onednn_product", watched)
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
