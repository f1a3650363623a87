"""Bundles with one planted defect each, made from tiny sound ones: what the behaviour suite must catch.

A defect in numbers is planted by building from a checkpoint with other facts or weights, or by editing the file that
was built; the bundle is then looked at as one of the sound checkpoint. A defect in text is an edit of the bundle's
files. Manifests are left as they are, but for those that are the defect: digests would give every edit away.

`python -m tests.support.mutants [WORD]` plants all of them, or those with a word in their name, and prints caught and
planted by format and group.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from builders.build import build
from builders.checkpoint import Checkpoint, open_checkpoint
from builders.oracle.transformers_text import TextTruth, text_truth
from builders.reference import FloatReference
from builders.runtime.sessions import open_session
from builders.runtime.text_engines import open_text_engines
from builders.tokenizer import tokenizer_of
from builders.validation.behaviour.edges import check_edges
from builders.validation.behaviour.findings import Findings
from builders.validation.behaviour.ids import check_ids
from builders.validation.behaviour.subject import QUICK, Sample, Subject, with_special_tokens
from builders.validation.behaviour.template import check_template
from registry.bundle.folder import Bundle
from targets.recipes import recipe_named
from tests.support.checkpoints import Tiny, random_weights, write_json, write_tiny, write_weights
from tests.support.parity import LIKE_PHI_4_MINI

Array = np.ndarray[Any, Any]
SAMPLE = replace(QUICK, edge_tokens=300, every=2)
FORMATS = ("gguf", "onnx", "coreml")
FP16 = {"gguf": "gguf-f16", "onnx": "onnx-fp16", "coreml": "coreml-fp16"}
# llama.cpp pads contexts to 256 tokens, so that longrope's edge must be there.
SHAPES: dict[str, dict[str, Any]] = {
    "window": {"window": 40, "context": 120},
    "longrope": {"original_context": 48, "context": 120},
    "longrope at 256": {"original_context": 256, "context": 288},
    "llama": {"family": "llama", "context": 64},
    "llama, long": {"family": "llama", "context": 160},
    "phi3small": {"family": "phi3small", "context": 64},
    "phi3small, longrope": {"family": "phi3small", "original_context": 48, "context": 96},
    "like Phi-4-mini": LIKE_PHI_4_MINI | {"original_context": 48, "context": 96},
    "tied": {"tied": True, "context": 64},
}


@dataclass(frozen=True)
class Sound:
    """A checkpoint, what transformers says of its text, and its reference."""

    checkpoint: Checkpoint
    truth: TextTruth
    reference: FloatReference

    @cached_property
    def tokens(self) -> Array:
        tokens = np.random.default_rng(1).integers(0, 300, SAMPLE.edge_tokens + 8)
        return with_special_tokens(tokens, sorted(self.truth.added.values()))


class Nursery:
    """Sound checkpoints by shape and sound bundles by shape and recipe, each made once, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sound: dict[str, Sound] = {}
        self._bundles: dict[tuple[str, str], Bundle] = {}
        self._made = 0

    def place(self) -> Path:
        """Return a folder that is not there yet."""
        self._made += 1
        return self.folder / f"{self._made}"

    def sound(self, shape: str) -> Sound:
        """Return a checkpoint of small embeddings and layers of different scale, so that epsilon and scales count."""
        if shape not in self._sound:
            checkpoint = open_checkpoint(write_checkpoint(self.place(), shape))
            truth = text_truth(checkpoint.path)
            reference = FloatReference(checkpoint, self.folder / "reference")
            self._sound[shape] = Sound(checkpoint, truth, reference)
        return self._sound[shape]

    def bundle(self, shape: str, recipe: str) -> Bundle:
        """Return a sound bundle. Don't change it."""
        if (shape, recipe) not in self._bundles:
            self._bundles[shape, recipe] = build(self.sound(shape).checkpoint, recipe_named(recipe), self.place())
        return self._bundles[shape, recipe]


def write_checkpoint(folder: Path, shape: str, change: Callable[[dict[str, Array]], None] | None = None) -> Path:
    """Write a checkpoint of a shape; `change` edits its weights."""
    tiny = Tiny(dtype="F16", **SHAPES[shape])
    write_tiny(folder, tiny)
    weights = random_weights(tiny.config())
    weights["model.embed_tokens.weight"] *= 0.16
    for name in weights:
        if name.startswith("model.layers.1.mlp."):
            weights[name] *= 1.6
    if change is not None:
        change(weights)
    write_weights(folder, weights, dtype="F16")
    if SHAPES[shape].get("family") != "phi3small":
        write_json(folder / "config.json", tiny.config() | {"rope_theta": 20000.0})
    return folder


@contextmanager
def subject_of(bundle: Bundle, sound: Sound, sample: Sample = SAMPLE) -> Iterator[Subject]:
    """Open a bundle as one of a sound checkpoint."""
    checkpoint = sound.checkpoint
    with open_session(bundle) as session:
        yield Subject(bundle, session, sound.reference, sound.truth, tokenizer_of(checkpoint), sound.tokens, sample)


@dataclass(frozen=True)
class Mutant:
    """One defect. `plant` makes the bundle; `group`: the checks that must catch it."""

    name: str
    group: str
    shape: str
    format: str
    plant: Callable[[Nursery, str, str], Bundle] = field(repr=False)
    recipe: str = ""

    @property
    def id(self) -> str:
        return f"{self.format}, {self.name}"

    def check(self, nursery: Nursery) -> Findings:
        """Plant it, and return what the suite's group finds."""
        recipe = self.recipe or FP16[self.format]
        bundle = self.plant(nursery, self.shape, recipe)
        sound = nursery.sound(self.shape)
        if self.group == "edges":
            with subject_of(bundle, sound) as subject:
                return check_edges(subject)
        with subject_of(bundle, sound) as subject, open_text_engines(bundle) as engines:
            return {"ids": check_ids, "template": check_template}[self.group](subject, engines)


def other_facts(**changes: Any) -> Callable[[Nursery, str, str], Bundle]:
    """Build from other facts of the architecture: values, or what a function makes of the sound one."""

    def plant(nursery: Nursery, shape: str, recipe: str) -> Bundle:
        checkpoint = nursery.sound(shape).checkpoint
        own = checkpoint.architecture
        values = {key: value(own) if callable(value) else value for key, value in changes.items()}
        other = replace(checkpoint, architecture=replace(own, **values))
        return build(other, recipe_named(recipe), nursery.place())

    return plant


def other_rope(**changes: Any) -> Callable[[Nursery, str, str], Bundle]:
    """Build with other facts of longrope."""

    def changed(own: Any) -> Any:
        values = {key: value(own.longrope) if callable(value) else value for key, value in changes.items()}
        return replace(own.longrope, **values)

    return other_facts(longrope=changed)


def other_weights(change: Callable[[dict[str, Array]], None]) -> Callable[[Nursery, str, str], Bundle]:
    """Build from other weights."""

    def plant(nursery: Nursery, shape: str, recipe: str) -> Bundle:
        nursery.sound(shape)
        other = open_checkpoint(write_checkpoint(nursery.place(), shape, change))
        return build(other, recipe_named(recipe), nursery.place())

    return plant


def edited(change: Callable[[Bundle], Bundle | None]) -> Callable[[Nursery, str, str], Bundle]:
    """Copy the sound bundle, and edit the copy's files, or its manifest."""

    def plant(nursery: Nursery, shape: str, recipe: str) -> Bundle:
        sound = nursery.bundle(shape, recipe)
        copy = replace(sound, path=Path(shutil.copytree(sound.path, nursery.place())))
        return change(copy) or copy

    return plant


def in_manifest(**changes: Any) -> Callable[[Bundle], Bundle]:
    """Change what the manifest says of generation."""

    def change(bundle: Bundle) -> Bundle:
        generation = bundle.manifest.generation.model_copy(update=changes)
        return replace(bundle, manifest=bundle.manifest.model_copy(update={"generation": generation}))

    return change


def in_text(name: str, old: str, new: str) -> Callable[[Bundle], None]:
    """Replace a text in a file, wherever it is."""

    def change(bundle: Bundle) -> None:
        path = bundle.file(name)
        content = path.read_text("utf-8")
        assert old in content, (name, old)
        path.write_text(content.replace(old, new), "utf-8")

    return change


def in_json(name: str, change: Callable[[Any], None]) -> Callable[[Bundle], None]:
    """Change a JSON file."""

    def edit(bundle: Bundle) -> None:
        content = json.loads(bundle.file(name).read_bytes())
        change(content)
        bundle.file(name).write_text(json.dumps(content, ensure_ascii=False), "utf-8")

    return edit


def in_gguf(
    keys: Mapping[str, Any] | None = None, tensors: Mapping[str, Callable[[dict[str, Array]], Array]] | None = None
) -> Callable[[Bundle], None]:
    """Write a GGUF file again with other values of keys (a value, or what a function makes of the old one; `...`
    removes the key), and of tensors, from their raw bytes by name."""

    def change(bundle: Bundle) -> None:
        import gguf

        path = bundle.file("model.gguf")
        reader = gguf.GGUFReader(path)
        architecture = reader.fields["general.architecture"].contents()
        writer = gguf.GGUFWriter(path.with_suffix(".new"), architecture)
        for name, old in reader.fields.items():
            if name.startswith("GGUF.") or name == "general.architecture":
                continue
            value = (keys or {}).get(name.replace(f"{architecture}.", "ARCH."), old.contents())
            if value is ...:
                continue
            sub_type = old.types[-1] if old.types[0] == gguf.GGUFValueType.ARRAY else None
            value = value(old.contents()) if callable(value) else value
            writer.add_key_value(name, value, old.types[0], sub_type=sub_type)
        raw = {tensor.name: tensor.data for tensor in reader.tensors}
        for tensor in reader.tensors:
            data = (tensors or {}).get(tensor.name, lambda all_, name=tensor.name: all_[name])(raw)
            assert data.shape == tensor.data.shape
            writer.add_tensor(tensor.name, np.ascontiguousarray(data), raw_dtype=tensor.tensor_type)
        for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
            getattr(writer, step)()
        path.with_suffix(".new").replace(path)

    return change


def in_graph(change: Callable[[Any], None]) -> Callable[[Bundle], None]:
    """Change the ONNX graph; its weights stay in their file."""

    def edit(bundle: Bundle) -> None:
        import onnx

        model = onnx.load(bundle.file("model.onnx"), load_external_data=False)
        change(model)
        onnx.save(model, bundle.file("model.onnx"))

    return edit


def in_program(change: Callable[[Any], None]) -> Callable[[Bundle], None]:
    """Change the Core ML program; its weights stay in their file."""

    def edit(bundle: Bundle) -> None:
        import coremltools as ct

        (path,) = bundle.path.rglob("*.mlmodel")
        specification = ct.proto.Model_pb2.Model()
        specification.ParseFromString(path.read_bytes())
        change(specification)
        path.write_bytes(specification.SerializeToString())

    return edit


def main(word: str = "") -> int:
    """Plant all with this word in their name, and print the table."""
    from tests.support.planted import MUTANTS

    caught: Counter[tuple[str, str]] = Counter()
    planted: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        nursery = Nursery(Path(folder))
        for mutant in [one for one in MUTANTS if word in one.id]:
            where = mutant.format, mutant.group
            planted[where] += 1
            failed = [check for check in mutant.check(nursery).checks if not check.passed]
            caught[where] += bool(failed)
            said = f"{len(failed)} checks: {failed[0].name}" if failed else "NOT CAUGHT"
            print(f"{mutant.id} -> {said}", flush=True)  # noqa: T201
    rows = [f"| {name} | {group} | {caught[name, group]} | {planted[name, group]} |" for name, group in sorted(planted)]
    print("\n| format | group | caught | planted |\n|---|---|---|---|", *rows, sep="\n")  # noqa: T201
    print(f"| all | | {sum(caught.values())} | {sum(planted.values())} |")  # noqa: T201
    return int(caught != planted)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
