"""coremltools' own conversion: a torch trace of transformers' model, converted for iOS 18, with compressed weights.

Products with weights are computed in float16, everything else in float32. With float16 throughout, squares in the norms
overflow on this model and the result is useless (KL 7.5), which would not compare the quantizers.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any


def convert(checkpoint: Path, out: Path, *, length: int) -> None:
    """Trace and convert: input_ids int32 [1, length] in, logits float16 [1, length, vocabulary] out; no cache."""
    import coremltools as ct
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForCausalLM.from_pretrained(
                checkpoint, dtype=torch.float32, attn_implementation="eager", use_cache=False
            )
            # The mask is an input of the trace: transformers' own mask code does not trace.
            seen = torch.tril(torch.ones(length, length, dtype=torch.bool))
            self.register_buffer("mask", torch.where(seen, 0.0, -3e4)[None, None])

        def forward(self, input_ids: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=self.mask, use_cache=False).logits

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Logits().eval(), torch.zeros(1, length, dtype=torch.int32))
        package = ct.convert(
            traced,
            inputs=[ct.TensorType("input_ids", shape=(1, length), dtype=np.int32)],
            outputs=[ct.TensorType("logits", dtype=np.float32)],
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.transform.FP16ComputePrecision(op_selector=_has_weights),
            skip_model_load=True,
        )
    shutil.rmtree(out, ignore_errors=True)
    package.save(str(out))


def _has_weights(operation: Any) -> bool:
    return operation.op_type in ("linear", "gather")


def compress_int4(source: Path, out: Path) -> None:
    """Compress to int4, symmetric, blocks of 32, with coremltools' optimizer."""
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    config = cto.OptimizationConfig(
        global_config=cto.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=32, weight_threshold=2048
        )
    )
    package = ct.models.MLModel(str(source), skip_model_load=True)
    shutil.rmtree(out, ignore_errors=True)
    cto.linear_quantize_weights(package, config).save(str(out))
