"""Reports of a made-up release: one cell passes, one fails at two gates, one can't be built."""

from __future__ import annotations

from phipack.api.results import CellReport, ReleaseReport
from targets.errors import BuildError, Failure, GateError
from targets.evidence import Figure
from targets.gates import GateResult
from targets.references import Version

HOSTILE = "a<b>&\"'`|x|` ::error::no\r\n::add-mask::y\x1b[2J\x00 100%,:[l](http://h) #1 @who \ud800"


def figure(value: float, unit: str, kind: str = "measured") -> Figure:
    return Figure.model_validate({"value": value, "unit": unit, "kind": kind, "on": "256 tokens"})


def gate(name: str, bound: str, value: float, *, passed: bool) -> GateResult:
    return GateResult(figure=name, bound=bound, value=value, passed=passed, asked_by="project")


def passing() -> CellReport:
    return CellReport(
        cell="iphone-15",
        target="iphone-15",
        recipe="onnx-int4",
        size_bytes=97_666_300,
        digest="sha256:" + "ab" * 32,
        figures={"kl_mean": figure(0.0123, "nat"), "same_top_share": figure(0.982, "share")},
        gates=(gate("kl_mean", "<= 0.05", 0.0123, passed=True),),
    )


def at_gates() -> CellReport:
    failed = (
        gate("kl_mean", "<= 0.05", 0.3, passed=False),
        gate("artifact_bytes", "<= 90000000", 97_666_300, passed=False),
    )
    failures = [Failure("galaxy-s24", str(one)) for one in failed]
    return CellReport(
        cell="galaxy-s24",
        target="galaxy-s24",
        recipe="gguf-q4_0",
        figures={"kl_mean": figure(0.3, "nat"), "kl_max": figure(float("inf"), "nat")},
        gates=failed,
        problem=GateError("galaxy-s24 does not pass", failures=failures, fix="choose a recipe with more bits"),
    )


def broken(text: str = "the disk is full") -> CellReport:
    return CellReport(cell="pixel-9", target="pixel-9", recipe="gguf-f16", problem=BuildError(text, fix=f"free {text}"))


def release(*cells: CellReport, dry_run: bool = False) -> ReleaseReport:
    return ReleaseReport("phi", Version.parse("1.0.0"), dry_run=dry_run, cells=cells)
