"""What is made of a checkpoint: a bundle, another layout, evidence in a file."""

from __future__ import annotations

import json
from pathlib import Path

from phipack.__main__ import main
from registry.bundle.folder import open_bundle, verify
from targets.evidence import Evidence
from tests.faults.ground import Command, Ground, names, phipack
from tests.support.checkpoints import write_tiny

OUT = Path("place/out")
EVIDENCE = Path("place/evidence.json")
IMPORTS = ("builders.release", "builders.gguf", "gguf", "jinja2", "llama_cpp", "torch", "tokenizers")
_BUILD = ("build", "checkpoint", "--recipe", "gguf-q8_0", "--replace", "-o")
_BUDGET = ("build", "checkpoint", "--recipe", "gguf-q4_0", "--bits", "5.5", "--replace", "-o")
_VALIDATE = ("validate", "bundle", "--against", "checkpoint", "--text", "text.txt", "--tokens", "64", "-o")


def prepare_checkpoint(_: Ground) -> None:
    """A checkpoint, and where things are made, something older."""
    write_tiny(Path("checkpoint"))
    write_tiny(Path("older"), seed=1)
    assert main(["build", "older", "--recipe", "gguf-q4_0", "-o", str(OUT)]) == 0


def prepare_other_layout(_: Ground) -> None:
    """A checkpoint, and an older one where it is to be written in another layout."""
    write_tiny(Path("checkpoint"))
    write_tiny(OUT, seed=1)


def prepare_bundle(_: Ground) -> None:
    """A bundle and its checkpoint, and evidence of an earlier time."""
    write_tiny(Path("checkpoint"))
    assert main(["build", "checkpoint", "--recipe", "gguf-q8_0", "-o", "bundle"]) == 0
    Path("text.txt").write_text("A text is read here, and its tokens are compared. " * 40, "utf-8")
    EVIDENCE.parent.mkdir()
    EVIDENCE.write_text("{}")


def one_whole_bundle(_: Ground) -> None:
    """The old or the new bundle, whole; or between two renames none, and the old one next to it."""
    if OUT.exists():
        verify(open_bundle(OUT))
        return
    (aside,) = OUT.parent.glob(".phipack-staging-*-old-out")
    verify(open_bundle(aside / OUT.name))


def built(_: Ground) -> None:
    """The new bundle, whole."""
    bundle = open_bundle(OUT)
    verify(bundle)
    assert bundle.manifest.recipe.name == "gguf-q8_0"


def out_is_alone(_: Ground) -> None:
    """Nothing is next to what was made."""
    assert names(OUT.parent) == ["out"]


def one_whole_checkpoint(_: Ground) -> None:
    """The old or the new checkpoint, whole; or between two renames none, and the old one next to it."""
    place = OUT
    if not OUT.exists():
        (aside,) = OUT.parent.glob(".phipack-staging-*-old-out")
        place = aside / OUT.name
    assert main(["inspect", str(place)]) == 0


def converted(_: Ground) -> None:
    """A checkpoint in Llama's layout."""
    assert json.loads((OUT / "config.json").read_text())["model_type"] == "llama"
    assert main(["inspect", str(OUT)]) == 0


def evidence_or_older(_: Ground) -> None:
    """The file is the old one or the new one, whole."""
    if EVIDENCE.read_text() != "{}":
        Evidence.read(EVIDENCE)


def measured(_: Ground) -> None:
    """The evidence is of this bundle."""
    assert Evidence.read(EVIDENCE).bundle == open_bundle(Path("bundle")).digest


def evidence_is_alone(_: Ground) -> None:
    """Nothing is next to the evidence, and the cache has nothing unfinished."""
    assert names(EVIDENCE.parent) == ["evidence.json"]
    assert [path for path in Path(".phipack").rglob("*") if path.name.endswith(".new") or "staging" in path.name] == []


def prepare_undisturbed(_: Ground) -> None:
    """A checkpoint, and a bundle that was calibrated without a fault."""
    write_tiny(Path("checkpoint"), context=64)
    _build_calibrated(Path("undisturbed"))


def calibrated(_: Ground) -> None:
    """What was measured is what an undisturbed run measures: a bundle of it has the same digest."""
    _build_calibrated(Path())
    digests = {open_bundle(home / "bundle").digest for home in (Path(), Path("undisturbed"))}
    assert len(digests) == 1


def what_was_measured_is_whole(_: Ground) -> None:
    """Each finished file of the cache is byte for byte what an undisturbed run has there."""
    whole, cache = Path("undisturbed/.phipack/cache"), Path(".phipack/cache")
    for path in cache.rglob("*"):
        if path.is_file() and path.suffix != ".new" and "states" not in path.parts:
            assert path.read_bytes() == (whole / path.relative_to(cache)).read_bytes(), path


def _build_calibrated(home: Path) -> None:
    home.mkdir(exist_ok=True)
    (home / "phipack.toml").touch()  # so that the command takes this folder's cache
    words = ("--calibration", "full", "--replace", "--project", str(home / "phipack.toml"))
    assert main(["build", "checkpoint", "--recipe", "onnx-int4", *words, "-o", str(home / "bundle")]) == 0


def prepare_undisturbed_budget(_: Ground) -> None:
    """A checkpoint, something older where its bundle goes, and a bundle to the same budget, built without a fault."""
    prepare_checkpoint(_)
    assert main([*_BUDGET, "undisturbed/bundle"]) == 0
    Path(".phipack").rename("undisturbed/.phipack")


def built_to_the_budget(_: Ground) -> None:
    """The types and bytes of an undisturbed build: nothing half measured was taken as whole."""
    assert open_bundle(OUT).digest == open_bundle(Path("undisturbed/bundle")).digest
    verify(open_bundle(OUT))


def out_and_cache_are_tidy(ground: Ground) -> None:
    """Nothing is next to the bundle, and the cache has no unfinished file."""
    out_is_alone(ground)
    nothing_unfinished(ground)


def one_whole_bundle_and_whole_measurements(ground: Ground) -> None:
    """The bundle is the old or the new one, and nothing half measured counts as measured."""
    one_whole_bundle(ground)
    what_was_measured_is_whole(ground)


def nothing_unfinished(_: Ground) -> None:
    """The cache has no unfinished file. What a stopped walk has finished may be there."""
    assert list(Path(".phipack").rglob("*.new")) == []


def cache_is_tidy(ground: Ground) -> None:
    """The cache has nothing unfinished, and no states of a walk that is done."""
    nothing_unfinished(ground)
    assert list(Path(".phipack").rglob("states")) == []


COMMANDS = {
    "calibrate": Command(
        of="calibrate",
        prepare=prepare_undisturbed,
        run=phipack("calibrate", "checkpoint", "--level", "full"),
        after=what_was_measured_is_whole,
        done=calibrated,
        tidy=cache_is_tidy,
        told=nothing_unfinished,
        imports=(*IMPORTS, "builders.onnx", "onnx"),
        limit=0,
    ),
    "budget": Command(
        of="build",
        prepare=prepare_undisturbed_budget,
        run=phipack(*_BUDGET, str(OUT)),
        after=one_whole_bundle_and_whole_measurements,
        done=built_to_the_budget,
        tidy=out_and_cache_are_tidy,
        imports=IMPORTS,
        limit=0,
    ),
    "build": Command(
        of="build",
        prepare=prepare_checkpoint,
        run=phipack(*_BUILD, str(OUT)),
        after=one_whole_bundle,
        done=built,
        tidy=out_is_alone,
        imports=IMPORTS,
        limit=3,
    ),
    "convert": Command(
        of="convert",
        prepare=prepare_other_layout,
        run=phipack("convert", "checkpoint", "--layout", "llama", "--replace", "-o", str(OUT)),
        after=one_whole_checkpoint,
        done=converted,
        tidy=out_is_alone,
        imports=IMPORTS,
        limit=0,
    ),
    "validate": Command(
        of="validate",
        prepare=prepare_bundle,
        run=phipack(*_VALIDATE, str(EVIDENCE)),
        after=evidence_or_older,
        done=measured,
        tidy=evidence_is_alone,
        imports=IMPORTS,
        limit=0,
    ),
}
