"""What reading tensors takes, and leaves, in memory."""

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from builders.checkpoint import open_checkpoint
from builders.checkpoint.adapter import merge
from builders.checkpoint.adapter.changes import BLOCK_ROWS
from tests.support.adapters import write_adapter
from tests.support.checkpoints import write_tiny


def _mapped_bytes(part_of_path: str) -> int:
    """Resident bytes of a mapped file."""
    resident, inside = 0, False
    smaps = Path("/proc/self/smaps")  # Linux; elsewhere nobody tells, and nothing is held to
    for line in (smaps.read_text("utf-8") if smaps.exists() else "").splitlines():
        if "-" in line.split(" ")[0]:
            inside = part_of_path in line
        elif inside and line.startswith("Rss:"):
            resident += int(line.split()[1]) * 1024
    return resident


def test_a_tensor_that_was_read_does_not_stay_resident(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "wide", hidden=512, intermediate=4096))
    name = "model.layers.0.mlp.gate_up_proj.weight"
    source = checkpoint.open_tensors()
    first = source.tensor(name)
    file_name = str(checkpoint.shard_files[0])
    assert _mapped_bytes(file_name) < first.size  # it has 2 bytes an element on disk
    assert (source.tensor(name) == first).all()


class _Largest(TorchDispatchMode):  # type: ignore[misc]  # torch gives it no type
    """The most elements of any tensor that an operation creates, views and what is changed in place left out."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        created = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(created):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in given:
                self.elements = max(self.elements, leaf.numel())
        return created


def test_a_merged_tensor_takes_a_block_of_rows_more_than_its_base(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "wide", hidden=128, intermediate=4096)
    adapter = write_adapter(folder, tmp_path / "adapter", r=2, use_dora=True)
    source = merge(open_checkpoint(folder), adapter).open_tensors()
    with _Largest() as noted:
        height, width = source.tensor("model.layers.0.mlp.gate_up_proj.weight").shape
    assert noted.elements == BLOCK_ROWS * width
    assert height == 8 * BLOCK_ROWS
