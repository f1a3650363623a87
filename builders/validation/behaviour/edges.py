"""Logits at the lengths where attention or the rope changes, read in one go, in chunks and token by token.

The three ways run different code in a runtime: a mask for many queries, a cache that is read and appended to, and one
that is read again from the start where longrope's factors change. All must agree with the reference, which always reads
in one go. Only lengths count at which the manifest says that the runtime is exact: llama.cpp, for one, ignores the
sliding window.

What numbers alone can't show: at a window of 2,047 tokens one token more or less moves the logits by less than float16
does, unless attention happens to rest on that token. So a graph that states its window is read, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from builders.onnx import GRAPH_NAME
from builders.validation.behaviour.findings import Findings
from builders.validation.behaviour.subject import NO_ADDED, Logits, Subject
from builders.validation.behaviour.yardstick import distance
from builders.validation.compare import divergence, log_softmax
from registry.formats.forwards import Forwards
from registry.formats.onnx_graph import read_model

_CHUNKS = 9  # a sequence is read in: no multiple of an edge
SCORED_BYTES = 1 << 30  # of logits at once; beyond, each length is read on its own
_ATTENTION, _NO_WINDOW = "GroupQueryAttention", -1  # ONNX's, and its window where a graph states none
_NAT = "nat"
_INEXACT = "the manifest does not say that the runtime is exact there"


def check_edges(subject: Subject) -> Findings:
    """Compare the bundle with the reference around every edge, and far from all of them."""
    findings = Findings("edges")
    for name, edge in subject.edges.items():
        if edge > subject.sample.edge_tokens:
            findings.skip(f"at {name}", f"{edge} tokens; at most {subject.sample.edge_tokens} are read")
    for length, where in subject.lengths.items():
        if not subject.is_exact(length):
            findings.skip(f"{length} tokens, {where}", _INEXACT)
    _check_ordinary(subject, findings)
    _compare(subject, findings, "in one go", _in_one_go(subject))
    _compare(subject, findings, "token by token", _token_by_token(subject))
    _compare(subject, findings, "in chunks", _in_chunks(subject))
    _check_stated_window(subject, findings)
    return findings


def _check_ordinary(subject: Subject, findings: Findings) -> None:
    count = subject.ordinary
    if not subject.is_exact(count):
        findings.skip(f"the first {count} tokens", _INEXACT)
        return
    expected = subject.expected([*range(1, count + 1)])
    found = distance(expected, subject.session.score(subject.tokens[:count]), subject.special)
    bounds = subject.yardstick
    findings.within(f"the first {count} tokens, mean KL", found.kl_mean, bounds.kl_mean, _NAT)
    findings.within(f"the first {count} tokens, largest KL", found.kl_most, bounds.kl, _NAT)
    if subject.special:
        name = f"log-probabilities of {len(subject.special)} special tokens there"
        findings.within(name, found.special, bounds.special, _NAT)
    else:
        findings.skip("log-probabilities of special tokens there", NO_ADDED)


def _compare(subject: Subject, findings: Findings, how: str, answers: Iterable[tuple[int, Logits]]) -> None:
    for length, found in answers:
        if not subject.is_exact(length):
            continue
        kl = divergence(log_softmax(subject.expected([length])), log_softmax(found[None]))
        where = subject.lengths.get(length, "where a chunk ends")
        findings.within(f"{how}: {length} tokens, {where}", float(kl[0]), subject.yardstick.kl, _NAT)


def _in_one_go(subject: Subject) -> Iterator[tuple[int, Logits]]:
    """Yield logits after each length, from one call for each part of the sequence."""
    for first, last in subject.parts():
        lengths = [n for n in subject.lengths if first <= n <= last and subject.is_exact(n)]
        if not lengths:
            continue
        longest = lengths[-1]
        if longest * subject.model.vocabulary_size * 4 > SCORED_BYTES:
            yield from ((length, subject.session.prefill(subject.tokens[:length])) for length in lengths)
            continue
        logits = subject.session.score(subject.tokens[:longest])
        for length in lengths:
            yield length, logits[length - 1]


def _token_by_token(subject: Subject) -> Iterator[tuple[int, Logits]]:
    """Yield logits after each length, reached by one token; what lies between edges is read in one go."""
    cached = 0
    for length in subject.lengths:
        start = length - 1
        if start > cached:
            _continued(subject, cached, start)
        logits = subject.session.step(int(subject.tokens[start])) if start else _continued(subject, 0, 1)
        cached = length
        yield length, logits


def _in_chunks(subject: Subject) -> Iterator[tuple[int, Logits]]:
    """Yield logits after each chunk of the sequence."""
    size = max(1, subject.last // _CHUNKS)
    for start in range(0, subject.last, size):
        stop = min(start + size, subject.last)
        yield stop, _continued(subject, start, stop)


def _continued(subject: Subject, start: int, stop: int) -> Logits:
    """Read tokens `start` to `stop` after those before them."""
    part = subject.tokens[start:stop]
    return subject.session.extend(part) if start else subject.session.prefill(part)


def _check_stated_window(subject: Subject, findings: Findings) -> None:
    """Compare the window that an ONNX graph states with the checkpoint's."""
    path = subject.bundle.file(GRAPH_NAME)
    if subject.bundle.manifest.recipe.format != "onnx":
        return
    size = path.stat().st_size
    with path.open("rb") as stream:
        graph = read_model(Forwards(stream, GRAPH_NAME, size), GRAPH_NAME, size)
    attention = [node for node in graph.nodes if node.operator == _ATTENTION]
    stated = {node.integers.get("local_window_size", _NO_WINDOW) for node in attention}
    window = subject.reference.checkpoint.architecture.effective_window
    expected = {_NO_WINDOW if window is None else window}
    if stated:
        findings.equal("the graph's local_window_size", expected, stated)
