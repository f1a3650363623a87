"""What reading tensors leaves in memory."""

from pathlib import Path

from builders.checkpoint import open_checkpoint
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
