"""Core ML compiles for the shapes that a program declares; coremltools infers them, and may be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builders.build import build
from builders.checkpoint import open_checkpoint
from builders.coreml.interface import MAIN, PROMPT
from builders.coreml.package import PACKAGE_NAME
from builders.runtime.coreml.evaluate import Evaluator
from builders.runtime.coreml.session import open_session
from targets.recipes import recipe_named
from tests.support.checkpoints import write_tiny
from tests.support.parity import some_tokens

CHUNK, CONTEXT, EDGE = 64, 150, 80
Shapes = dict[str, tuple[int | None, ...]]  # by variable; None for a dimension that the program leaves open


@pytest.mark.parametrize("changes", [{"original_context": EDGE}, {"family": "phi3small"}], ids=["longrope", "small"])
@pytest.mark.parametrize("fixed", [False, True], ids=["ranges", "fixed shapes"])
def test_they_are_those_that_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixed: bool, changes: dict[str, Any]
) -> None:
    seen: dict[str, dict[str, tuple[int, ...]]] = {MAIN: {}}
    kept = Evaluator._keep_results

    def keep(self: Evaluator, step: Any, values: Any, sequence: Any) -> None:
        length = sequence.variables.get("inputIds", values[0]).shape[-1]
        of_call = seen.setdefault(PROMPT if fixed and length == CHUNK else MAIN, {})
        of_call.update({one.name: tuple(value.shape) for one, value in zip(step.results, values, strict=True)})
        kept(self, step, values, sequence)

    monkeypatch.setattr(Evaluator, "_keep_results", keep)
    checkpoint = open_checkpoint(write_tiny(tmp_path / "checkpoint", dtype="F16", **changes))
    recipe = replace(recipe_named("coreml-fp16"), fixed_shapes=fixed)
    bundle = build(checkpoint, recipe, tmp_path / "bundle", context_length=CONTEXT)
    with open_session(bundle) as session:
        for engine in session._engines.values():  # so that each call knows its length to the end
            monkeypatch.setattr(engine, "_liveness", replace(engine._liveness, deaths={}))
        session.score(some_tokens(CHUNK + 1))
    assert set(seen) == ({MAIN, PROMPT} if fixed else {MAIN})
    for function, computed in seen.items():
        declared = declared_shapes(bundle.file(PACKAGE_NAME), function)
        assert len(computed) > 100
        wrong = {name: (declared[name], shape) for name, shape in computed.items() if not agrees(declared[name], shape)}
        assert not wrong


def declared_shapes(package: Path, function: str) -> Shapes:
    import coremltools as ct

    program = ct.models.MLModel(str(package), skip_model_load=True).get_spec().mlProgram
    body = program.functions[function]
    return {
        one.name: tuple(
            size.constant.size if size.WhichOneof("dimension") == "constant" else None
            for size in one.type.tensorType.dimensions
        )
        for operation in body.block_specializations[body.opset].operations
        for one in operation.outputs
    }


def agrees(declared: tuple[int | None, ...], computed: tuple[int, ...]) -> bool:
    return len(declared) == len(computed) and all(
        one in (None, other) for one, other in zip(declared, computed, strict=True)
    )
