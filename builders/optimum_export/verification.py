"""An exported graph looked at from outside: it runs, and answers as transformers 5's own model of the checkpoint.

transformers 4 wrote the graph from what it read of the checkpoint. Whatever it read otherwise than transformers 5 does
(a key that it skips, weights that it does not find under their names) shows in the logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.quiet_transformers import quiet_transformers
from targets.errors import BuildError, UnsupportedModelError
from targets.progress import Notice, Progress

GRAPH = "model.onnx"
TOKENS = 48
TOLERANCE = 1e-3  # of the largest logit; float32 on both sides leaves 1e-5


def verify_export(checkpoint: Path, folder: Path, on_progress: Progress) -> None:
    """Compare the graph in a folder with transformers' own model.

    Raises:
        BuildError: optimum wrote no graph that onnxruntime opens and that has logits.
        UnsupportedModelError: it answers otherwise than the model.
    """
    session = _opened(folder / GRAPH)
    expected = _transformers_logits(checkpoint)
    if isinstance(expected, str):
        on_progress(Notice(f"the export was not compared with its model: {expected}"))
        return
    tokens, logits = expected
    found = session.run(["logits"], _feeds(session, tokens))[0][0]
    largest = float(np.abs(logits).max())
    difference = float(np.abs(found - logits).max()) if found.shape == logits.shape else float("inf")
    if not difference <= TOLERANCE * largest:
        raise UnsupportedModelError(
            f"{checkpoint}: optimum's graph does not answer as the model: a logit differs by {difference:.2g}, the"
            f" largest is {largest:.2g}; its transformers 4 reads the checkpoint otherwise than transformers 5",
            fix="save the checkpoint with transformers 4, model.save_pretrained(...), and export that folder; if it "
            "differs as well, optimum can't export this architecture",
        )


def _opened(path: Path) -> Any:
    import onnxruntime

    if not path.is_file():
        raise BuildError(f"optimum wrote no {path.name}", fix="please report this, with the checkpoint's config.json")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's own classes have no public base
        raise BuildError(
            f"onnxruntime can't open the graph that optimum wrote: {str(error).splitlines()[0]}",
            fix="please report this, with the checkpoint's config.json",
        ) from error
    if "logits" not in {output.name for output in session.get_outputs()}:
        raise BuildError(
            "the graph that optimum wrote has no logits", fix="please report this, with the checkpoint's config.json"
        )
    return session


def _feeds(session: Any, tokens: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return the inputs for a first read of the tokens: an empty cache, every token seen."""
    length = tokens.shape[1]
    known = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "position_ids": np.arange(length)[None]}
    feeds = {}
    for entry in session.get_inputs():
        if entry.name in known:
            feeds[entry.name] = known[entry.name]
        else:  # a layer's past keys or values: one sequence, of no tokens yet
            sizes = [size if isinstance(size, int) else int("batch" in str(size)) for size in entry.shape]
            feeds[entry.name] = np.zeros(sizes, np.float16 if "float16" in entry.type else np.float32)
    return feeds


def _transformers_logits(checkpoint: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]] | str:
    """Return random tokens, [1, T], and the logits after each, [T, vocabulary]; or why there are none."""
    import torch
    import transformers

    try:
        with quiet_transformers():
            model = transformers.AutoModelForCausalLM.from_pretrained(
                checkpoint, dtype=torch.float32, local_files_only=True, trust_remote_code=False
            ).eval()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()
        return f"transformers {transformers.__version__} can't load it: {reason[0] if reason else type(error).__name__}"
    rows = model.get_input_embeddings().num_embeddings
    tokens = np.random.default_rng(0).integers(0, rows, (1, TOKENS))
    with torch.inference_mode():
        return tokens, model(torch.from_numpy(tokens), use_cache=False).logits[0].float().numpy()
