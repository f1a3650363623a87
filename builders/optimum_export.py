"""Export to ONNX with `optimum`, for architectures that phipack's own converters don't know.

The result is optimum's plain graph in a folder, not a bundle: the whole model is held in memory, nothing is quantized,
and it can't be validated or registered, since the float32 reference knows the same architectures as the converters.
For those architectures, it is the graph that phipack's own is tested against.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from builders.checkpoint.weight_files import find_weights
from registry.files.staging import staged_folder
from targets.config_json import read_architecture
from targets.errors import CheckpointError, UnsupportedModelError

TASK = "text-generation-with-past"


def export(checkpoint: Path, out: Path, *, replace: bool = False) -> list[str]:
    """Export a checkpoint's folder to `out`, and return the names of the files.

    Raises:
        CheckpointError: no config or safetensors (pickled weights are refused: reading them may run code).
        UnsupportedModelError: optimum does not know the architecture either, or would export it wrongly.
        BuildError: `out` exists or can't be written. Nothing is left behind.
    """
    config = _config(checkpoint)
    _refuse_longrope(checkpoint, config)
    _refuse_rope_parameters(checkpoint, config)
    find_weights(checkpoint)
    from optimum.exporters.onnx import main_export

    with staged_folder(out, replace=replace) as folder:
        try:
            with warnings.catch_warnings():  # deprecations inside the libraries: nothing that a user can act on
                warnings.simplefilter("ignore")
                main_export(str(checkpoint), folder, task=TASK, do_validation=False, local_files_only=True)
        except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UnsupportedModelError(
                f"{checkpoint}: optimum can't export it: {reason}",
                fix="for Phi-3, Phi-3-small and Llama use phipack build; for others, ask optimum to support them",
            ) from error
        return sorted(path.name for path in folder.iterdir())


def _config(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} can't be read: {error}",
            fix="name a Hugging Face checkpoint folder; if this is one, download config.json again",
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(
            f"{path} must hold an object, not {type(config).__name__}",
            fix="download it again from the model's repository",
        )
    return config


def _refuse_longrope(checkpoint: Path, config: dict[str, Any]) -> None:
    """Refuse longrope, which optimum 2.1 exports wrongly without saying so: with the short factors alone."""
    try:
        architecture = read_architecture(config)
    except CheckpointError:
        return  # not one of phipack's own: that is what this module is for
    if architecture.longrope is not None:
        raise UnsupportedModelError(
            f"{checkpoint}: optimum freezes longrope to the short factors: wrong past "
            f"{architecture.longrope.original_context} tokens",
            fix="use phipack build --recipe onnx-fp16, which writes both sets of factors",
        )


def _refuse_rope_parameters(checkpoint: Path, config: dict[str, Any]) -> None:
    """Refuse transformers 5's form of the rope: optimum's transformers 4 skips it and takes a default instead."""
    for inner in (config, *(value for value in config.values() if isinstance(value, dict))):
        if inner.get("rope_parameters") is not None:
            raise UnsupportedModelError(
                f"{checkpoint / 'config.json'}: rope_parameters is transformers 5's; optimum's transformers 4 skips it",
                fix="write what it says as rope_theta and rope_scaling, transformers 4's keys, and remove it",
            )
