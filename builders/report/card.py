"""The model card of a bundle, in Markdown: whole for its run (`README.md`), in short for the version's page in MLflow.

The whole one begins with the metadata of Hugging Face's model cards (huggingface.co/docs/hub/model-cards); MLflow's
pages would show that as text, so the short one has none. MLflow keeps at most 5,000 characters of a description.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from builders.report.changes import app_changes
from builders.report.content import CellContent, Subject
from builders.report.findings import findings, judged
from builders.report.recipes import recipe_of
from builders.report.speeds import speed_rows
from targets.formatting import bound, figure, size
from targets.printable import one_line

DESCRIPTION_LIMIT = 5000
_LIBRARIES = {"gguf": "llama.cpp", "onnx": "onnxruntime-genai", "coreml": "coreml"}
_LIMITS: dict[str, tuple[str, ...]] = {
    "gguf": (
        "llama.cpp reserves memory for the whole context that it is opened with: open it for what the app needs.",
        "llama.cpp renders the chat template by an engine of its own, which knows a part of Jinja.",
    ),
    "onnx": (
        "It is checked in onnxruntime-genai; plain onnxruntime needs a loop and a cache of one's own.",
        "Memory is reserved for the whole context when it is opened.",
    ),
    "coreml": (
        "It needs iOS 18, as its KV cache is state.",
        "Off a Mac it is checked by evaluating the program's operations, not by Core ML itself.",
    ),
}
_METADATA = """\
---
license: other
license_name: as-of-the-checkpoint
library_name: {library}
pipeline_tag: text-generation
tags: [on-device, {format}, {recipe}]
---"""
_SPECIAL = re.compile(r"([\\`*_{}\[\]|#!~])")


def description(cell: CellContent, report: str) -> str:
    """Return the short card. `report`: where the report is, as an address or a sentence."""
    lines = [
        *_head(cell),
        "",
        f"Report: {report}",
        "",
        *_gates(cell.candidate),
        "",
        "What to look at:",
        "",
        *_findings(cell),
    ]
    return _within("\n".join(lines), DESCRIPTION_LIMIT)


def model_card(cell: CellContent) -> str:
    """Return the whole card."""
    subject = cell.candidate
    parts = [
        _metadata(subject),
        "\n".join([f"# {_text(subject.name)}", "", *_head(cell)]),
        "\n".join(["## Gates", "", *_gates(subject)]),
        "\n".join(["## What to look at", "", *_findings(cell)]),
        "\n".join(["## Intended use", "", *_use(subject)]),
        "\n".join(["## How to run it", "", *_running(cell)]),
        "\n".join(["## Limits", "", *_limits(subject)]),
        "\n".join(["## Licences", "", *_licences(subject)]),
        "\n".join(["## Origin", "", *_origin(subject)]),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(subject: Subject) -> str:
    form = subject.manifest.recipe.format
    values = {"library": _LIBRARIES[form], "format": form, "recipe": subject.manifest.recipe.name}
    quoted = {name: json.dumps(value, allow_nan=False) for name, value in values.items()}  # JSON is YAML
    return _METADATA.format(**quoted)


def _head(cell: CellContent) -> Iterator[str]:
    subject = cell.candidate
    result = judged(cell)
    phones = _phones(subject)
    yield f"**{result.word}**: {_text(result.text)}."
    yield ""
    yield f"{_text(recipe_of(subject.manifest))}, {size(subject.manifest.total_bytes)}, for {_text(phones)}."
    if cell.reason:
        yield ""
        yield f"Why it is made, in its makers' words: {_text(cell.reason)}"


def _phones(subject: Subject) -> str:
    target, named = subject.target, None if subject.evidence is None else subject.evidence.target
    if target is not None:
        return f"{target.title} ({target.os} {target.minimum_os} or later)"
    return "no device class" if named is None else f"{named}, which this phipack does not know"


def _gates(subject: Subject) -> Iterator[str]:
    gates = () if subject.evidence is None else subject.evidence.gates
    if not gates:
        yield "No gate was checked."
        return
    yield "| gate | found | must be | asked by | |"
    yield "|---|---|---|---|---|"
    for gate in sorted(gates, key=lambda one: one.passed):
        cells = (gate.figure, figure(gate.figure, gate.value), bound(gate.figure, gate.bound), gate.asked_by)
        yield f"| {' | '.join(map(_text, cells))} | {'passes' if gate.passed else '**FAILS**'} |"


def _findings(cell: CellContent) -> Iterator[str]:
    found = findings(cell)
    if not found:
        yield "Nothing stands out."
    for one in found:
        yield f"- **{one.word}**: {_text(one.text)}"


def _use(subject: Subject) -> Iterator[str]:
    model = subject.manifest.model
    yield (
        f"Conversations of up to {model.exact_context_length:,} tokens, generated on the device. It answers as its"
        " checkpoint does, as closely as the figures above say, and is unfit for whatever the checkpoint is unfit for."
    )
    details = subject.details
    if details is None or not details.safety:
        yield ""
        yield "Whether its refusals are those of the checkpoint was not measured."


def _running(cell: CellContent) -> Iterator[str]:
    for change in app_changes(CellContent(cell.candidate)):  # as it is, not how it differs
        yield f"- {change.what}: {_text(change.after)}"
    for row in speed_rows(cell.candidate):
        yield f"- {row.quantity}: {_text(row.device)} on the device, {_text(row.predicted)} for it"


def _limits(subject: Subject) -> Iterator[str]:
    model = subject.manifest.model
    if model.exact_context_length < model.context_length:
        yield f"- Past {model.exact_context_length:,} tokens its runtime does not compute what the checkpoint does."
    for text in (*_LIMITS[subject.manifest.recipe.format], *subject.manifest.recipe.notes):
        yield f"- {_text(text)}"


def _licences(subject: Subject) -> Iterator[str]:
    yield "- Weights and tokenizer: the checkpoint's licence, which phipack does not know."
    details = subject.details
    tasks, safety = ((), ()) if details is None else (details.tasks, details.safety)
    for name, licence in [(one.task, one.licence) for one in tasks] + [(one.prompts, one.licence) for one in safety]:
        yield f"- {_text(name)}, in the evaluation alone: {_text(licence)}"


def _origin(subject: Subject) -> Iterator[str]:
    manifest = subject.manifest
    yield f"- bundle: `{manifest.digest}`"
    yield f"- checkpoint: `{manifest.checkpoint}`"
    yield f"- made with: {_text(', '.join(f'{name} {version}' for name, version in manifest.tools.items()))}"


def _text(text: str) -> str:
    """Return a text that Markdown shows as it is written, on one line."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")  # MLflow's knows no \\>
    return _SPECIAL.sub(r"\\\1", plain)


def _within(text: str, limit: int) -> str:
    """Cut whole lines off the end."""
    more = "\n\n(The report has the rest.)"
    if len(text) <= limit:
        return text
    return text[: limit - len(more)].rpartition("\n")[0] + more
