"""`tokenizer.json` of the tokenizers library: the part of it that a GGUF file can express."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from targets.errors import CheckpointError, UnsupportedModelError

_FIX = "download it again from the model's repository"


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True)


class AddedToken(_Read):
    """A token that is found in text before any other step. `rstrip`: it swallows the whitespace after it.

    `normalized`: it is looked for after the normalizer has changed both text and token.
    """

    content: str = Field(min_length=1)
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


class NumberedToken(AddedToken):
    """An added token with its id, as `added_tokens` lists them."""

    id: int


class BpeModel(_Read):
    """The model: `merges` in order, the first applied first. In models of other kinds `vocab` is not an object."""

    type: str = "BPE"
    vocab: dict[str, int]
    merges: list[str | tuple[str, str]]
    unk_token: str | None = None
    byte_fallback: bool | None = False
    ignore_merges: bool | None = False
    dropout: float | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The merges as pairs, however the file spells them."""
        split = ((left, right) for left, _, right in (m.partition(" ") for m in self.merges if isinstance(m, str)))
        return list(split) or [merge for merge in self.merges if not isinstance(merge, str)]

    @model_validator(mode="after")
    def _one_spelling(self) -> Self:
        spelled = {isinstance(merge, str) for merge in self.merges}
        if len(spelled) > 1 or not all(left and right for left, right in self.pairs):
            raise ValueError("merges must be all 'left right', or all pairs")
        return self


class TokenizerJson(_Read):
    """The file. Steps of normalizer, pre-tokenizer and post-processor are kept as they are."""

    added_tokens: list[NumberedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    model: BpeModel

    @property
    def added(self) -> dict[int, AddedToken]:
        """Added tokens by id."""
        return {token.id: token for token in self.added_tokens}


class _AnyModel(_Read):
    """Enough of the file to see what kind of tokenizer it is."""

    class Kind(_Read):
        type: str = "BPE"

    model: Kind


def read_tokenizer_json(content: bytes, *, source: str) -> TokenizerJson:
    """Read a tokenizer.json.

    Raises:
        CheckpointError: a key is wrong.
        UnsupportedModelError: not a BPE tokenizer.
    """
    try:
        kind = _AnyModel.model_validate_json(content).model.type
        if kind == "BPE":
            return TokenizerJson.model_validate_json(content)
    except ValidationError as error:
        raise CheckpointError(f"{source}: not a BPE tokenizer: {_first(error)}", fix=_FIX) from error
    raise UnsupportedModelError(
        f"{source} is {kind}; llama.cpp bundles are built with BPE",
        fix="build an ONNX or Core ML recipe, such as onnx-int4: their apps use tokenizer.json itself",
    )


def steps(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """Return the steps of a normalizer, pre-tokenizer or post-processor; `inner`: the key that lists them."""
    if part is None:
        return []
    if part.get("type") != "Sequence":
        return [part]
    listed = part.get(inner)
    return [step for step in listed if isinstance(step, dict)] if isinstance(listed, list) else [part]


def _first(error: ValidationError) -> str:
    entry = error.errors()[0]
    return f"{'.'.join(str(part) for part in entry['loc']) or 'document'}: {entry['msg']}"
