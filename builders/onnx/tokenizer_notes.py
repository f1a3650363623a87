"""Where onnxruntime-genai's own tokenizer differs from a bundle's `tokenizer.json`."""

from __future__ import annotations

from pathlib import Path

from builders.checkpoint import read_json

_SPACE = "\u2581"  # SentencePiece's


def tokenizer_notes(folder: Path) -> tuple[str, ...]:
    """Return the note for a SentencePiece tokenizer; none for byte-level ones, which it reads correctly.

    onnxruntime-extensions (`SpmTokenize`) cuts a text at spaces and every 100 characters before it merges, and after a
    special token drops only ASCII white space. With Phi-3's vocabulary that changes 1 paragraph in 500 of English and
    code, mostly in runs of spaces.
    """
    content = read_json(folder / "tokenizer.json", required=False)
    decoder = content.get("decoder") or {}
    steps = decoder.get("decoders", [decoder])
    if not any(step.get("type") == "Replace" and step.get("pattern") == {"String": _SPACE} for step in steps):
        return ()
    note = (
        "onnxruntime-genai's own tokenizer cuts text before it merges: a few ids differ, mostly in runs of spaces "
        "(evidence: runtime_tokens_share); tokenize with tokenizer.json where that matters"
    )
    if (content.get("pre_tokenizer") or {}).get("prepend_scheme", "always") == "always":
        return (note,)
    spaces = (
        "onnxruntime-genai's own tokenizer puts a space before each text and after each special token, tokenizer.json "
        "does not: tokenize chats with tokenizer.json"
    )
    return note, spaces
