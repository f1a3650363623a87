"""Tiny Phi-3-smalls whose attention tells: as released, tiny random layers would hardly move the logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.checkpoints import write_json, write_tiny

TELLING = {"mup_embedding_multiplier": 1.5, "mup_attn_multiplier": 6.0, "mup_width_multiplier": 2.0}
RELEASED_BLOCKS = {"blocksparse_block_size": 64, "blocksparse_num_local_blocks": 16, "blocksparse_vert_stride": 8}


def write_telling(folder: Path, config: dict[str, Any], **changes: Any) -> Path:
    """Write a tiny checkpoint of any family with other values in its config, and give its folder."""
    write_tiny(folder, **changes)
    content = json.loads((folder / "config.json").read_bytes())
    telling = TELLING if changes.get("family") == "phi3small" else {}
    write_json(folder / "config.json", content | telling | config)
    return folder
