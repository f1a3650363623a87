"""Measures how fast onnxruntime-genai runs a folder: prefill of 128 tokens and decode of 32 more, as JSON.

python -m benchmarks.full_size.decode FOLDER
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

PROMPT_TOKENS = 128
NEW_TOKENS = 32
RUNS = 3


def speeds(folder: Path) -> dict[str, float]:
    """Return medians of several runs, in tokens per second."""
    import onnxruntime_genai

    model = onnxruntime_genai.Model(str(folder))
    prefill, decode = [], []
    for _ in range(RUNS):
        parameters = onnxruntime_genai.GeneratorParams(model)
        # min_length: random weights may choose a stop id, which would end the run.
        length = PROMPT_TOKENS + NEW_TOKENS + 1
        parameters.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = onnxruntime_genai.Generator(model, parameters)
        started = time.perf_counter()
        generator.append_tokens([5 + token % 300 for token in range(PROMPT_TOKENS)])
        generator.generate_next_token()
        prefilled = time.perf_counter()
        for _ in range(NEW_TOKENS):
            generator.generate_next_token()
        decode.append(NEW_TOKENS / (time.perf_counter() - prefilled))
        prefill.append(PROMPT_TOKENS / (prefilled - started))
        del generator
    return {
        "prefill_tokens_per_second": statistics.median(prefill),
        "decode_tokens_per_second": statistics.median(decode),
    }


if __name__ == "__main__":
    print(json.dumps(speeds(Path(sys.argv[1]))))
