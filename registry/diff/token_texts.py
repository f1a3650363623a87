"""The text of the ids that an app has to know, from a bundle's tokenizer.json: what `1` is, a reader can't guess."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from registry.diff.compare import Side
from targets.errors import PhipackError
from targets.special_tokens import special_tokens_of
from targets.strict_json import MalformedJsonError, parse_json

_NAME = "tokenizer.json"
_CONFIG_NAME = "tokenizer_config.json"
_BYTES_LIMIT = 64 << 20


def token_texts(side: Side) -> dict[int, str]:
    """Return the text of each stop id and of BOS; without those that the file does not have, or that can't be read."""
    generation = side.manifest.generation
    wanted = {*generation.stop_token_ids, generation.bos_token_id}
    return {number: text for number, text in _texts(_read(side, _NAME)) if number in wanted}


def special_tokens(side: Side) -> dict[str, str]:
    """Return the special tokens by role, as chat templates use them; empty where the file is missing or unreadable."""
    return special_tokens_of(_dict(_read(side, _CONFIG_NAME)))


def is_same_tokenizer(before: Side, after: Side) -> bool:
    """Return whether both tokenizer.json say the same, in whichever form: saved again, one has other white space."""
    old, new = _read(before, _NAME), _read(after, _NAME)
    return old is not None and old == new


def _read(side: Side, name: str) -> Any:
    entry = next((one for one in side.manifest.files if one.path == name and one.bytes <= _BYTES_LIMIT), None)
    if entry is None:
        return None
    try:
        with side.open_file(entry) as stream:
            return parse_json(stream.read(_BYTES_LIMIT), ours=False)
    except (PhipackError, OSError, MalformedJsonError):
        return None


def _texts(content: Any) -> Iterator[tuple[int, str]]:
    """Yield ids with their texts, those of added tokens last; what has another form is passed over."""
    model = _dict(content).get("model")
    for text, number in _dict(_dict(model).get("vocab")).items():
        if isinstance(number, int):
            yield number, text
    added = _dict(content).get("added_tokens")
    for one in map(_dict, added if isinstance(added, list) else ()):
        if isinstance(one.get("id"), int) and isinstance(one.get("content"), str):
            yield one["id"], one["content"]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
