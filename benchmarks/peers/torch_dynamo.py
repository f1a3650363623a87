"""torch's own exporter (dynamo): transformers' model to ONNX in float16, without a cache.

Run as a script, `torch_dynamo.py CHECKPOINT OUT.onnx`, in the environment of `genai.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path


def export(checkpoint: Path, out: Path) -> None:
    """Export with the exporter's own optimizations, and with the weights in a file next to the graph."""
    import torch
    from transformers import AutoModelForCausalLM

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForCausalLM.from_pretrained(
                checkpoint, dtype=torch.float16, attn_implementation="eager"
            )

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, use_cache=False).logits

    out.parent.mkdir(parents=True, exist_ok=True)
    length = torch.export.Dim("length", min=2, max=2000)
    with torch.no_grad():
        program = torch.onnx.export(
            Logits().eval(),
            (torch.zeros(1, 16, dtype=torch.int64),),
            dynamo=True,
            dynamic_shapes={"input_ids": {1: length}},
        )
    program.save(str(out), external_data=True)


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
