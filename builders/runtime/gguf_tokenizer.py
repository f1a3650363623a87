"""Text as llama.cpp itself reads it from a GGUF file: vocabulary, chat template, where an answer ends."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from builders.gguf.convert import MODEL_NAME
from builders.gguf.known_templates import FUNCTION, apply_known_template
from builders.runtime.gguf_log import silence
from builders.runtime.refusal import check_fix
from builders.runtime.text_engine import Messages, Tools, rendered
from registry.bundle.folder import Bundle
from targets.errors import MeasurementError

_PIECE_BYTES = 1 << 12


class GgufText:
    """Implements `builders.runtime.text_engine.TextEngine`. `open_gguf_text` makes one.

    llama.cpp's C library knows only some templates, by what they contain (`KnownTemplate`). Apps that render the file's
    own template use another engine, so what is rendered is the text that llama.cpp reads in the file, in the process
    for templates, with the names that llama-cpp-python passes on.
    """

    name = "llama.cpp"

    def __init__(self, library: Any, model: Any) -> None:
        self._library = library
        self._model = model
        self._vocabulary = library.llama_model_get_vocab(model)

    @property
    def bos_id(self) -> int | None:
        """The file's."""
        return self._named(self._library.llama_vocab_bos)

    @property
    def adds_bos(self) -> bool:
        """Whether llama_tokenize puts it before a text that asks for special tokens."""
        return bool(self._library.llama_vocab_get_add_bos(self._vocabulary))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        raw = text.encode()
        ids = (self._library.llama_token * (len(raw) + 8))()
        count = self._library.llama_tokenize(self._vocabulary, raw, len(raw), ids, len(ids), False, True)
        return list(ids[: max(0, count)])

    def id_of(self, token: str) -> int | None:
        """Return the id of a token whose own text this is."""
        ids = self.encode(token)
        return ids[0] if len(ids) == 1 and self.text_of(ids[0]) == token else None

    def text_of(self, token: int) -> str:
        """Return a token's text, that of special tokens too."""
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        count = self._library.llama_token_to_piece(self._vocabulary, token, buffer, len(buffer), 0, True)
        return buffer.raw[: max(0, count)].decode("utf-8", "replace")

    @property
    def template(self) -> str | None:
        """The chat template in the file."""
        found = self._library.llama_model_chat_template(self._model, None)
        return None if found is None else bytes(found).decode("utf-8", "replace")

    def render(self, messages: Messages, tools: Tools | None, *, add_generation_prompt: bool) -> str | None:
        """Return a conversation in the file's template."""
        named = {
            "bos_token": self._named(self._library.llama_vocab_bos),
            "eos_token": self._named(self._library.llama_vocab_eos),
        }
        special = {role: self.text_of(token) for role, token in named.items() if token is not None}
        return rendered(self.template, messages, special, tools, add_generation_prompt)

    def ends(self, tokens: Sequence[int]) -> dict[int, bool]:
        """Return for each token whether llama.cpp counts it among those that end generation."""
        return {token: bool(self._library.llama_vocab_is_eog(self._vocabulary, token)) for token in tokens}

    def _named(self, ask: Callable[[Any], int]) -> int | None:
        token = int(ask(self._vocabulary))
        return None if token < 0 else token


class KnownTemplate:
    """The file's template by llama.cpp's C library, for prompts. Implements `TemplateEngine`."""

    name = FUNCTION

    def __init__(self, text: GgufText) -> None:
        self.encode = text.encode
        self._template = text.template

    def render(self, messages: Messages, tools: Tools | None, *, add_generation_prompt: bool) -> str | None:
        """Return a conversation without BOS, with the prompt for an answer; None where it can't be written."""
        if self._template is None or tools is not None or not add_generation_prompt:
            return None
        return apply_known_template(self._template, messages)


@contextmanager
def open_gguf_text(bundle: Bundle) -> Iterator[GgufText]:
    """Open the vocabulary of a GGUF bundle. No weight is read.

    Raises:
        MeasurementError: llama.cpp refuses the vocabulary.
    """
    import llama_cpp

    library: Any = llama_cpp
    silence(library)
    parameters = library.llama_model_default_params()
    parameters.vocab_only = True
    model = library.llama_model_load_from_file(str(bundle.file(MODEL_NAME)).encode(), parameters)
    if not model:
        raise MeasurementError(
            f"{bundle.path}: llama.cpp can't read the vocabulary",
            fix=check_fix(bundle.path),
        )
    try:
        yield GgufText(library, model)
    finally:
        library.llama_model_free(model)
