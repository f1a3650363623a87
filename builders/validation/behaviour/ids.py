"""Ids that an answer depends on: stop ids, added tokens, BOS, and the first token after prompts of one to three tokens.

The truth is transformers' (`builders/oracle`), with the stop ids that phipack finds in addition where no file of the
checkpoint states them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from builders.gguf.tokenizer import UNKNOWN_STOPS
from builders.runtime.text_engine import TextEngine
from builders.tokenizer import stop_token_ids
from builders.validation.behaviour.findings import Findings
from builders.validation.behaviour.subject import NO_ADDED, Subject
from builders.validation.compare import divergence, log_softmax
from registry.bundle.folder import Bundle

SHORT_PROMPTS = 3  # the longest, in tokens
_NO_STOP = 3  # tokens that must not end an answer are tried


def check_ids(subject: Subject, engines: Sequence[TextEngine]) -> Findings:
    """Check all of them in every engine."""
    findings = Findings("ids")
    for engine in engines:
        _check_stops(subject, engine, findings)
        _check_added(subject, engine, findings)
        _check_bos(subject, engine, findings)
    for length in range(1, min(SHORT_PROMPTS, subject.last) + 1):
        if not subject.is_exact(length):
            continue
        found = subject.session.prefill(subject.tokens[:length])
        kl = divergence(log_softmax(subject.expected([length])), log_softmax(found[None]))
        name = f"the first token after a prompt of {length} token{'s' if length > 1 else ''}"
        findings.within(name, float(kl[0]), subject.yardstick.kl, "nat")
    return findings


def _check_stops(subject: Subject, engine: TextEngine, findings: Findings) -> None:
    checkpoint = subject.reference.checkpoint
    stops = sorted({*subject.truth.stop_ids, *stop_token_ids(checkpoint)})
    may = {*stops, *subject.truth.end_ids}  # llama.cpp ends at other tokens too whose text ends answers elsewhere
    others = [number for number in range(subject.model.vocabulary_size) if number not in may][:_NO_STOP]
    ends = engine.ends([*stops, *others])
    excused = _named_in_notes(subject.bundle) if engine.name == "llama.cpp" else set()
    for stop in stops:
        name = f"{engine.name}: stop id {stop} ends an answer"
        if stop in excused and not ends[stop]:
            findings.skip(name, "the manifest's notes say that the app must stop there itself")
        else:
            findings.holds(name, ends[stop], f"id {stop} does not end an answer")
    going_on = [other for other in others if ends[other]]
    findings.holds(f"{engine.name}: other ids don't end an answer", not going_on, f"ids {going_on} end it")


def _named_in_notes(bundle: Bundle) -> set[int]:
    """Return the stop ids of which the manifest says that llama.cpp does not know them."""
    notes = [note for note in bundle.manifest.recipe.notes if note.startswith(UNKNOWN_STOPS)]
    return {int(number) for note in notes for number in re.findall(r"\b(\d+) \(", note)}


def _check_added(subject: Subject, engine: TextEngine, findings: Findings) -> None:
    """Check that the text of every added token becomes its id, and that the id has this text."""
    added = {token: number for token, number in subject.truth.added.items() if number < subject.model.vocabulary_size}
    if not added:
        findings.skip(f"{engine.name}: added tokens and their ids", NO_ADDED)
        return
    wrong = []
    for token, number in added.items():
        ids, own = engine.encode(token), engine.id_of(token)
        if ids != [number] or own != number:
            wrong.append(f"{token!r}: expected id {number}, found {ids} for its text and {own} in the vocabulary")
    findings.holds(f"{engine.name}: {len(added)} added tokens and their ids", not wrong, "; ".join(wrong))


def _check_bos(subject: Subject, engine: TextEngine, findings: Findings) -> None:
    bos = subject.truth.bos_id
    if bos is not None:
        findings.equal(f"{engine.name}: the id that begins a sequence", bos, engine.bos_id)
    if engine.adds_bos is None:
        return
    spelled = next(one for one in subject.truth.spelled if one.ids)
    adds = len(spelled.wrapped) > len(spelled.ids) and spelled.wrapped[-len(spelled.ids) :] == spelled.ids
    begins = spelled.wrapped[:1] != spelled.ids[:1]
    findings.equal(f"{engine.name}: puts BOS before a text", adds or begins, engine.adds_bos)
