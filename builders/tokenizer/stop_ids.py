"""The ids that end an answer, and where each of them is named."""

from __future__ import annotations

from dataclasses import dataclass

from builders.checkpoint import Checkpoint
from builders.tokenizer.loading import Tokenizer, tokenizer_of
from builders.tokenizer.probes import turn_end
from targets.config_json import read_setting
from targets.errors import CheckpointError

_NO_TOKEN = -1


@dataclass(frozen=True)
class StopIds:
    """Ids that end an answer, sorted. `notes`: where they are not what `generation_config.json` says."""

    ids: tuple[int, ...]
    notes: tuple[str, ...] = ()


def stop_token_ids(checkpoint: Checkpoint) -> tuple[int, ...]:
    """Return the ids that end an answer, sorted. Raises as `read_stop_ids`; cheaper, as it makes no notes."""
    return _named(checkpoint) or read_stop_ids(checkpoint, tokenizer_of(checkpoint)).ids


def named_id(checkpoint: Checkpoint, key: str) -> int | None:
    """Return `bos_token_id` or `pad_token_id`: of generation_config.json, or of config.json where that says null.

    -1 says null, too: that is how the first Llamas were saved.

    Raises:
        CheckpointError: it is not in the vocabulary.
    """
    for file, content in (("generation_config.json", checkpoint.generation_config), ("config.json", checkpoint.config)):
        value = content.get(key)
        if value is None or value == _NO_TOKEN:
            continue
        return _id_of(checkpoint, value, key, file)
    return None


def read_stop_ids(checkpoint: Checkpoint, tokenizer: Tokenizer) -> StopIds:
    """Return the ids of `generation_config.json`; where it names none, all that the other files name.

    These are those of `config.json`, the tokenizer's EOS and the token with which the chat template ends a turn. One
    alone is not enough: Phi-3's config.json names <|endoftext|>, its turns end with <|end|>. A config.json without the
    key means the default of its configuration class, as it does in transformers.

    Raises:
        CheckpointError: an id is not in the vocabulary.
    """
    named, end = _named(checkpoint), turn_end(checkpoint, tokenizer)
    vocabulary = tokenizer.vocabulary()
    spelled = {number: token for token, number in vocabulary.items()}
    if named:
        if end is None or end in named:
            return StopIds(named)
        note = (
            f"the chat template ends a turn with {spelled[end]} ({end}), which is not among the stop ids of "
            f"generation_config.json ({', '.join(map(str, named))}): answers may run on"
        )
        return StopIds(named, (note,))
    eos = vocabulary.get(tokenizer.special_tokens.get("eos_token", ""))
    sources = {
        "config.json": _of_config(checkpoint),
        "the tokenizer's EOS": () if eos is None else (eos,),
        "the chat template's end of a turn": () if end is None else (end,),
    }
    ids = tuple(sorted({number for found in sources.values() for number in found}))
    if not ids:
        return StopIds((), ("no file of the checkpoint names a stop id: an answer ends only at its longest length",))
    said = "; ".join(
        f"{', '.join(f'{number} ({spelled.get(number)})' for number in found)} by {name}"
        for name, found in sources.items()
        if found
    )
    return StopIds(ids, (f"generation_config.json names no stop ids; taken instead: {said}",))


def _of_config(checkpoint: Checkpoint) -> tuple[int, ...]:
    value = read_setting(checkpoint.config, "eos_token_id")
    if "eos_token_id" not in checkpoint.config and isinstance(value, int):
        return (value,) if value < checkpoint.architecture.vocabulary_size else ()
    return _checked(checkpoint, value, "config.json")


def _named(checkpoint: Checkpoint) -> tuple[int, ...]:
    return _checked(checkpoint, checkpoint.generation_config.get("eos_token_id"), "generation_config.json")


def _checked(checkpoint: Checkpoint, value: object, file: str) -> tuple[int, ...]:
    """Return the ids of an `eos_token_id`, sorted."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(sorted({_id_of(checkpoint, token, "eos_token_id", file) for token in ids}))


def _id_of(checkpoint: Checkpoint, value: object, key: str, file: str) -> int:
    """Return an id that a file's key has. Raises `CheckpointError` where it is not in the vocabulary."""
    size = checkpoint.architecture.vocabulary_size
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < size:
        raise CheckpointError(
            f"{checkpoint.path / file}: {key} {value!r} is not an id of the vocabulary (0 to {size - 1})",
            fix=f"correct it in {file}",
        )
    return value
