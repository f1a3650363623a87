"""Any decoder that `optimum` knows, exported to ONNX: for architectures that phipack's own writers don't know.

The result is optimum's plain graph in a folder, not a bundle: it is not streamed (the whole model is in memory),
nothing of it is quantized, no evidence can be taken, since the reference knows the same architectures as the writers,
and so it can't be registered. For what the writers know, it is the graph that theirs are tested against.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from builders.checkpoint.shards import find_shards
from registry.files.staging import staged_folder
from targets.config_json import read_architecture
from targets.errors import CheckpointError, UnsupportedModelError

TASK = "text-generation-with-past"


def export(checkpoint: Path, out: Path, *, replace: bool = False) -> list[str]:
    """Export a checkpoint's folder to `out`; give the names of the files.

    Raises:
        CheckpointError: no config or safetensors (pickled weights are refused: reading them may run code).
        UnsupportedModelError: optimum does not know the architecture either, or would export it wrongly.
        BuildError: `out` exists or can't be written. Nothing is left behind.
    """
    config = _config(checkpoint)
    _refuse_longrope(checkpoint, config)
    _refuse_rope_parameters(checkpoint, config)
    find_shards(checkpoint)
    from optimum.exporters.onnx import main_export

    with staged_folder(out, replace=replace) as folder:
        try:
            with warnings.catch_warnings():  # foreign code warns of its own future, in many words
                warnings.simplefilter("ignore")
                main_export(str(checkpoint), folder, task=TASK, do_validation=False, local_files_only=True)
        except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UnsupportedModelError(
                f"{checkpoint}: optimum can't export it: {reason}", fix="there is no other way to ONNX here"
            ) from error
        return sorted(path.name for path in folder.iterdir())


def _config(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} must hold an object, not {type(config).__name__}")
    return config


def _refuse_longrope(checkpoint: Path, config: dict[str, Any]) -> None:
    """Refuse what optimum 2.1 gets silently wrong: it freezes longrope to the short factors."""
    try:
        architecture = read_architecture(config)
    except CheckpointError:
        return  # none of ours: that is what this is for
    if architecture.longrope is not None:
        raise UnsupportedModelError(
            f"{checkpoint}: optimum freezes longrope to the short factors: wrong past "
            f"{architecture.longrope.original_context} tokens",
            fix="phipack build --recipe onnx-fp16 writes both",
        )


def _refuse_rope_parameters(checkpoint: Path, config: dict[str, Any]) -> None:
    """Refuse transformers 5's form of the rope: optimum's transformers 4 skips it and takes a default instead."""
    for inner in (config, *(value for value in config.values() if isinstance(value, dict))):
        if inner.get("rope_parameters") is not None:
            raise UnsupportedModelError(
                f"{checkpoint / 'config.json'}: rope_parameters is transformers 5's; optimum's transformers 4 skips it",
                fix="write what it says as rope_theta and rope_scaling, transformers 4's keys, and remove it",
            )
