"""Holds a checkpoint as phipack reads it, and a bundle's tokenizer, to the truth. What differs first is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builders.checkpoint import Checkpoint
from builders.checkpoint.adapter import MergedCheckpoint
from builders.oracle.library import installed_version
from builders.oracle.phi3_small import ARCHITECTURE, Phi3SmallFormulas
from builders.oracle.reading import observe
from builders.oracle.record import Agreement, Record
from builders.oracle.states import LAYERS, compare
from builders.oracle.transformers_model import TransformersModel
from builders.oracle.transformers_text import TextTruth, rendered, text_truth
from builders.oracle.truth import Numbers, Truth
from builders.runtime.generation import bundled_template, render_prompt
from builders.templates.conversations import CONVERSATIONS
from builders.tokenizer import Tokenizer, read_bundled_tokenizer, tokenizer_of
from registry.bundle.folder import Bundle
from targets.architecture import Architecture
from targets.errors import BundleError, MeasurementError
from targets.progress import Progress, Step, silent

BOUND = 1e-3  # of each difference; float32 itself makes about 1e-5 of it
_STEPS = 3
_FIX = (
    "don't ship what was built from it: save the checkpoint again with transformers (save_pretrained), build from the "
    "new folder, and report what its config.json and tokenizer files are like"
)


def ask_oracle(
    checkpoint: Checkpoint,
    *,
    cache: Path | None = None,
    allow_newer_transformers: bool = False,
    on_progress: Progress = silent,
) -> Agreement:
    """Compare phipack's reading of a checkpoint with that of transformers: config, text, first layers and head.

    Memory, float32: two layers, the embedding and the head, and these as they are stored. With an adapter also its
    tensors. Disk, while it runs: these weights as they are stored, in `cache`, or where the system keeps temporary
    files.

    Args:
        checkpoint: of any size; its first two layers are read.
        cache: folder of records: the same checkpoint is asked about once.
        allow_newer_transformers: don't refuse a folder that a newer transformers than the installed one wrote.
        on_progress: receives the step `oracle`.

    Raises:
        MeasurementError: phipack reads the checkpoint differently; transformers can't read it; or its writer is newer.
    """
    newer = _newer_writer(checkpoint)
    if newer is not None and not allow_newer_transformers:
        raise MeasurementError(
            f"{checkpoint.path}: written by transformers {newer}; {installed_version()}, which is installed here, may "
            "read it differently",
            fix=f"install transformers {newer} or later; or accept it with --allow-newer-transformers, or "
            "allow_newer_transformers = true under [evaluation] in the project file",
        )
    record = Record(cache, checkpoint)
    found = record.read()
    if found is None:
        try:
            found = _compared(checkpoint, cache, on_progress)
        except _DifferentReadingError as error:
            checkpoint.require_unchanged()
            record.write(error)
            raise
        checkpoint.require_unchanged()
        record.write(found)
    on_progress(Step("oracle", _STEPS, _STEPS))
    return found


def check_bundle(bundle: Bundle, text: TextTruth) -> None:
    """Compare what a bundle carries with what the oracle said of its checkpoint: ids, chat template, stop ids.

    Raises:
        MeasurementError: naming what differs first.
    """
    manifest = bundle.manifest.generation
    where = f"{bundle.path}: the bundle"
    _check_spelled(where, text, read_bundled_tokenizer(bundle.path))
    _check_stop_ids(where, text, manifest.stop_token_ids)
    if manifest.bos_token_id is not None and text.bos_id is not None and manifest.bos_token_id != text.bos_id:
        raise _differs(where, f"bos_token_id is {text.bos_id} there, {manifest.bos_token_id} here")
    own = bundled_template(bundle)
    if (own is None) != (text.template is None):
        raise _differs(where, "the chat template: only one of the two has one")
    if own is None or text.template is None:
        return
    for conversation in CONVERSATIONS:
        truth = rendered(text.template, text.named, conversation)
        found = [rendered(own, text.named, conversation)]
        if len(conversation) == 1:
            found.append(_own_prompt(bundle, conversation[0][1]))
        for one in found:
            if one != truth:
                raise _differs(where, f"the chat template: {conversation} is {truth!r} there, {one!r} here")


class _DifferentReadingError(MeasurementError):
    """phipack and the truth read a checkpoint differently: what is recorded as a failure."""


def _compared(checkpoint: Checkpoint, cache: Path | None, on_progress: Progress) -> Agreement:
    where = f"{checkpoint.path}: phipack"
    truth = _truth_of(checkpoint, cache)
    numbers = truth.numbers()
    _check_numbers(where, numbers, checkpoint.architecture)
    on_progress(Step("oracle", 0, _STEPS))
    tokenizer = tokenizer_of(checkpoint)
    text = text_truth(checkpoint.path, _added_tokens(tokenizer), tokenizer_folder=checkpoint.tokenizer_folder)
    _check_spelled(where, text, tokenizer)
    on_progress(Step("oracle", 1, _STEPS))
    layers, probes = min(LAYERS, numbers.layers), numbers.probes()
    expected = truth.observe(probes, layers)
    on_progress(Step("oracle", 2, _STEPS))
    found = observe(checkpoint, probes, layers)
    differences = [compare(*pair, layers=layers, bound=BOUND) for pair in zip(expected, found, strict=True)]
    for probe, difference in zip(probes, differences, strict=True):
        if difference.first is not None:
            raise _differs(where, f"{difference.first}, in {probe}")
    newer = _newer_writer(checkpoint)
    on = f"{truth.name}, first {layers} of {numbers.layers} layers, {'; '.join(map(str, probes))}"
    if isinstance(truth, Phi3SmallFormulas):
        on += f"; text: transformers {installed_version()}"
    if newer is not None:
        on += f"; the folder was written by transformers {newer}"
    return Agreement(
        max(difference.log_probability for difference in differences),
        max(difference.state for difference in differences),
        on,
        text,
    )


def _truth_of(checkpoint: Checkpoint, cache: Path | None) -> Truth:
    if ARCHITECTURE in checkpoint.config.get("architectures", []):
        adapter = checkpoint.adapter.path if isinstance(checkpoint, MergedCheckpoint) else None
        return Phi3SmallFormulas(checkpoint.path, cache, adapter)
    if not isinstance(checkpoint, MergedCheckpoint):
        return TransformersModel(checkpoint.path, cache)
    resized = checkpoint.architecture.vocabulary_size
    own = None if resized == checkpoint.base.architecture.vocabulary_size else resized
    return TransformersModel(checkpoint.path, cache, adapter=checkpoint.adapter.path, vocabulary=own)


def _check_numbers(where: str, truth: Numbers, found: Architecture) -> None:
    pairs: dict[str, tuple[Any, Any]] = {
        "num_hidden_layers": (truth.layers, found.layer_count),
        "vocab_size": (truth.vocabulary, found.vocabulary_size),
        "max_position_embeddings": (truth.context, found.context_length),
    }
    own: dict[str, int | None] = {"sliding_window": found.sliding_window}
    if found.longrope is not None:
        own["original_max_position_embeddings"] = found.longrope.original_context
    if found.block_sparse is not None and found.block_sparse.dense_every != 1:
        own["blocksparse_num_local_blocks"] = found.block_sparse.dense_up_to
    theirs: dict[str, int] = {str(name): number for name, number in truth.edges.items()}
    pairs |= {name: (theirs.get(name), own.get(name)) for name in sorted({*theirs, *own})}
    for name, (expected, number) in pairs.items():
        if expected != number:
            raise _differs(where, f"config.json: {name} is {expected} there, {number} here")


def _added_tokens(tokenizer: Tokenizer) -> list[str]:
    return [token["content"] for token in json.loads(tokenizer.to_json())["added_tokens"]]


def _check_spelled(where: str, truth: TextTruth, tokenizer: Tokenizer) -> None:
    for one in truth.spelled:
        wrapped = tokenizer.encode(one.text, add_special_tokens=True)
        for expected, found in ((one.ids, tokenizer.encode(one.text)), (one.wrapped, wrapped)):
            if expected != found:
                raise _differs(where, f"the tokenizer: {one.text!r} is {_apart(expected, found)}")
        if (decoded := tokenizer.decode(one.ids)) != one.decoded:
            raise _differs(where, f"the tokenizer: its ids are decoded to {one.decoded!r} there, {decoded!r} here")


def _apart(expected: list[int], found: list[int]) -> str:
    """Say where ids differ first: the rest of a long text is of no use to a reader."""
    same = next((place for place, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]), None)
    start = min(len(expected), len(found)) if same is None else same
    return f"{expected[start : start + 8]} there, {found[start : start + 8]} here, from id {start} on"


def _check_stop_ids(where: str, truth: TextTruth, found: list[int]) -> None:
    """Compare stop ids. Where no file states them, more may be found, of tokens that can end an answer."""
    own, expected = set(found), set(truth.stop_ids)
    extra = set() if truth.has_stated_stop_ids else (own - expected) & set(truth.end_ids)
    if own - extra != expected:
        raise _differs(where, f"stop ids are {sorted(expected)} there, {sorted(own)} here")


def _own_prompt(bundle: Bundle, prompt: str) -> str | None:
    try:
        return render_prompt(bundle, prompt)
    except BundleError:
        return None


def _differs(where: str, what: str) -> _DifferentReadingError:
    return _DifferentReadingError(
        f"{where} does not read it as transformers {installed_version()} does. What differs first: {what}", fix=_FIX
    )


def _newer_writer(checkpoint: Checkpoint) -> str | None:
    """Return the version of transformers that wrote the folder, if it is newer than the installed one."""
    from packaging.version import InvalidVersion, Version

    for config in (checkpoint.config, checkpoint.generation_config):
        written = config.get("transformers_version")
        try:
            if isinstance(written, str) and Version(written) > Version(installed_version()):
                return written
        except InvalidVersion:
            continue  # a fork's own name: which of the two is newer can't be said
    return None
