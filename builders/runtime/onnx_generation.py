"""A bundle driven by onnxruntime-genai, as in apps: its Android and iOS packages load the folder as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from builders.runtime.distributions import require_distributions
from builders.runtime.onnx_text import refused
from registry.bundle.folder import Bundle


def generate_tokens(bundle: Bundle, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[int]:
    """Yield the likeliest next token after a prompt, again and again.

    Ends before a stop id, after `max_new_tokens`, or at the context's end.

    Raises:
        MeasurementError: onnxruntime-genai refuses the bundle or the prompt, or logits are NaN or infinite.
    """
    import onnxruntime_genai as genai

    stop_ids = frozenset(bundle.manifest.generation.stop_token_ids)
    try:
        model = genai.Model(str(bundle.path))
        parameters = genai.GeneratorParams(model)
        longest = min(bundle.manifest.model.context_length, len(prompt_ids) + max_new_tokens)
        parameters.set_search_options(max_length=longest, do_sample=False)
        generator = genai.Generator(model, parameters)
        generator.append_tokens(np.asarray([prompt_ids], dtype=np.int32))
        while not generator.is_done():
            require_distributions(generator.get_logits(), "bundle", first=int(generator.token_count()) - 1)
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            if token in stop_ids:
                return
            yield token
    except RuntimeError as error:
        raise refused(bundle, error) from error
