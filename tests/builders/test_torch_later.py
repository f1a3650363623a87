"""A tokenizer is loaded without torch, and transformers' models find it when they ask for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys
from pathlib import Path
from builders.tokenizer.loading import load_tokenizer
assert load_tokenizer(Path(sys.argv[1])).encode("the") != []
assert "torch" not in sys.modules
from transformers import modeling_rope_utils
assert modeling_rope_utils.torch.float32.itemsize == 4  # it is imported now
import torch
from torch.nn import functional
assert sys.modules["torch"] is torch is not modeling_rope_utils.torch
assert modeling_rope_utils.torch.Tensor is torch.Tensor
"""


def test_torch_is_imported_when_something_is_asked_of_it(tiny_folder: Path) -> None:
    subprocess.run([sys.executable, "-c", _PROGRAM, str(tiny_folder)], cwd=Path(__file__).parents[2], check=True)
