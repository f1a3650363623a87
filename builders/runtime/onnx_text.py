"""Text as onnxruntime-genai itself reads it from a bundle's folder: tokenizer, chat template, where an answer ends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from builders.checkpoint import read_json
from builders.runtime.refusal import check_fix
from builders.runtime.text_engine import Messages, Tools
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError

_FAR = 1e4  # a logit that no other one comes near


class GenaiText:
    """Implements `builders.runtime.text_engine.TextEngine`. `open_onnx_text` makes one."""

    name = "onnxruntime-genai"

    def __init__(self, bundle: Bundle, tokenizer: Any) -> None:
        self._bundle = bundle
        self._tokenizer = tokenizer

    @property
    def bos_id(self) -> int | None:
        """That of genai_config.json."""
        return int(self._tokenizer.bos_token_id)

    @property
    def adds_bos(self) -> bool | None:
        """What tokenizer_config.json says, which is all that it reads; its Python interface never adds one."""
        said = read_json(self._bundle.file("tokenizer_config.json"), required=False).get("add_bos_token")
        return said if isinstance(said, bool) else None

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return [int(token) for token in self._tokenizer.encode(text)]

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, from its own vocabulary."""
        try:
            found = int(self._tokenizer.to_token_id(token))
        except RuntimeError:
            return None
        return found if found >= 0 else None

    def render(self, messages: Messages, tools: Tools | None, *, add_generation_prompt: bool) -> str | None:
        """Return a conversation in the template of tokenizer_config.json, by its own engine."""
        options = {} if tools is None else {"tools": json.dumps(list(tools), ensure_ascii=False, allow_nan=False)}
        said = json.dumps([dict(message) for message in messages], ensure_ascii=False, allow_nan=False)
        try:
            return str(
                self._tokenizer.apply_chat_template(said, add_generation_prompt=add_generation_prompt, **options)
            )
        except RuntimeError:
            return None

    def ends(self, tokens: Sequence[int]) -> dict[int, bool]:
        """Let it generate each token, by logits that allow no other, and return whether it is done then.

        Raises:
            MeasurementError: it refuses the bundle.
        """
        import onnxruntime_genai as genai

        try:
            model = genai.Model(str(self._bundle.path))
            parameters = genai.GeneratorParams(model)
            longest = min(4, self._bundle.manifest.model.context_length)
            parameters.set_search_options(max_length=longest, min_length=0, do_sample=False)
            found = {}
            for token in tokens:
                generator = genai.Generator(model, parameters)
                generator.append_tokens(np.zeros((1, 1), np.int32))
                logits = np.full_like(generator.get_logits(), -_FAR)
                logits[..., token] = _FAR
                generator.set_logits(logits)
                generator.generate_next_token()
                found[token] = int(generator.get_next_tokens()[0]) == token and bool(generator.is_done())
        except RuntimeError as error:
            raise refused(self._bundle, error) from error
        return found


@contextmanager
def open_onnx_text(bundle: Bundle) -> Iterator[GenaiText]:
    """Open onnxruntime-genai's own tokenizer of a bundle. No weight is read.

    Raises:
        MeasurementError: it can't read the tokenizer.
    """
    import onnxruntime_genai as genai

    try:
        text = GenaiText(bundle, genai.Tokenizer(genai.Config(str(bundle.path))))
    except RuntimeError as error:
        raise refused(bundle, error) from error
    yield text


def refused(bundle: Bundle, error: RuntimeError) -> MeasurementError:
    """Return the error that says why onnxruntime-genai does not take a bundle."""
    return MeasurementError(
        f"{bundle.path}: onnxruntime-genai refuses it: {error}",
        fix=check_fix(bundle.path),
    )
