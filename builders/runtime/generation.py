"""Text from a bundle: its own chat template, tokenizer, stop ids and runtime, the likeliest token each time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from builders.runtime.distributions import require_distributions
from builders.runtime.sessions import open_session
from builders.templates import ChatTemplateError, render_chat
from builders.tokenizer import Tokenizer, read_bundled_tokenizer, read_special_tokens
from registry.bundle.folder import Bundle
from targets.errors import BundleError, MeasurementError
from targets.progress import Progress, silent


class Answering(Protocol):
    """The part of `builders.runtime.session.Session` that continues a sequence."""

    def prefill(self, tokens: NDArray[np.int64], /) -> NDArray[np.float32]:
        """Start a sequence: logits [vocabulary] after its last token."""
        ...

    def step(self, token: int, /) -> NDArray[np.float32]:
        """Go one token further: logits [vocabulary] after it."""
        ...


_REPLACEMENT = "\ufffd"  # what an unfinished UTF-8 sequence is decoded to


def generate(
    bundle: Bundle, prompt: str, *, max_new_tokens: int, use_template: bool = True, on_progress: Progress = silent
) -> Iterator[str]:
    """Answer a prompt greedily, piece by piece, until a stop id, `max_new_tokens` or the context's end.

    `on_progress` gets a `Notice` where the runtime is opened again for an answer that outgrows its context.

    Raises:
        BundleError: the chat template can't be rendered.
        MeasurementError: the prompt does not fit, the runtime refuses the bundle, or its logits overflow.
    """
    tokenizer = read_bundled_tokenizer(bundle.path)
    has_template = use_template and bundle.manifest.generation.chat_template is not None
    text = render_prompt(bundle, prompt) if has_template else prompt
    # A template writes its own beginning-of-sequence token where the model wants one.
    ids = tokenizer.encode(text, add_special_tokens=not has_template)
    room = bundle.manifest.model.context_length - len(ids)
    if not ids or room < 1:
        raise MeasurementError(
            f"the prompt has {len(ids)} tokens; the bundle takes 1 to {bundle.manifest.model.context_length - 1}",
            fix="shorten the prompt, or build with a longer --context",
        )
    yield from _pieces(tokenizer, _tokens(bundle, ids, min(max_new_tokens, room), on_progress))


def render_prompt(bundle: Bundle, prompt: str) -> str:
    """Return a user's prompt in the bundle's chat template; unchanged where the bundle has none.

    Raises:
        BundleError: the template can't be rendered.
    """
    template = bundled_template(bundle)
    if template is None:
        return prompt
    messages = [{"role": "user", "content": prompt}]
    try:
        return render_chat(template, messages, read_special_tokens(bundle.path))
    except ChatTemplateError as error:
        raise BundleError(
            f"{bundle.file(str(bundle.manifest.generation.chat_template))}: the chat template fails: {error}",
            fix="use phipack generate --raw, or correct the checkpoint's chat template and build again",
        ) from error


def bundled_template(bundle: Bundle) -> str | None:
    """Return a bundle's chat template; None where it has none. Raises `BundleError` where it can't be read."""
    name = bundle.manifest.generation.chat_template
    if name is None:
        return None
    try:
        return bundle.file(name).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{bundle.path}: the chat template {name} can't be read: {error}", fix="fetch or build the bundle again"
        ) from error


def _tokens(bundle: Bundle, ids: list[int], limit: int, on_progress: Progress) -> Iterator[int]:
    """Continue ids in the runtime that apps use: for ONNX that is onnxruntime-genai, which drives the graph itself."""
    if bundle.manifest.recipe.format == "onnx":
        from builders.runtime.onnx_generation import generate_tokens

        yield from generate_tokens(bundle, ids, limit)
        return
    with open_session(bundle, on_progress) as session:
        yield from greedy(session, ids, limit, frozenset(bundle.manifest.generation.stop_token_ids))


def greedy(session: Answering, ids: list[int], limit: int, stop_ids: frozenset[int]) -> Iterator[int]:
    """Yield the likeliest next token after ids, again and again: before a stop id, at most `limit`.

    Raises:
        MeasurementError: there is no likeliest token, as logits are NaN or infinite.
    """
    logits = session.prefill(np.asarray(ids, dtype=np.int64))
    for made in range(limit):
        require_distributions(logits, "bundle", first=len(ids) + made - 1)
        token = int(logits.argmax())
        if token in stop_ids:
            return
        yield token
        if made + 1 < limit:
            logits = session.step(token)


def _pieces(tokenizer: Tokenizer, tokens: Iterator[int]) -> Iterator[str]:
    """Yield text as far as it has whole characters: a token may end in the middle of one.

    Bytes that end in the middle of one may change how those before them are decoded (SentencePiece's byte tokens): then
    as much of the new text follows as there is more of it.
    """
    ids: list[int] = []
    said = text = ""
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids)
        if not text.endswith(_REPLACEMENT) and len(text) > len(said):
            yield text[len(said) :]
            said = text
    if len(text) > len(said):
        yield text[len(said) :]
