"""Run the full-size builds and those of the other tools, print the table, and write table and plot to `--out`."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.full_size import report, rows
from benchmarks.full_size.measure import Measured
from devtools import synthetic
from devtools.packages import default_cache
from phipack.tables import table
from targets.calibration import CALIBRATIONS, Calibration

if TYPE_CHECKING:
    from benchmarks.full_size.rows import Row

WARM_LIMIT_BYTES = 12 << 30  # larger checkpoints do not stay in the page cache
TOGETHER = ("gguf-q4_0", "onnx-int4", "coreml-int4")


class Bench:
    """The scratch folder and the results so far."""

    def __init__(self, scratch: Path, chosen: list[Row], repeat: int, *, with_peers: bool, out: Path | None) -> None:
        self.scratch = scratch
        self.chosen = chosen
        self.repeat = repeat
        self.out = out
        self.converted: list[dict[str, Measured]] = [{} for _ in range(repeat)]  # llama.cpp's converter, by run
        self.with_peers = with_peers
        self.cache = default_cache()
        self.layers: int | None = None  # of the model: all
        self.texts: list[str] = []
        self.calibration: Calibration = "none"  # as the other tools build

    def model(self, model: str, asked: list[Row]) -> None:
        """Write a model's checkpoint, run all rows of the model, and remove the checkpoint."""
        checkpoint = synthetic.write_synthetic(model, self.scratch / model, layers=self.layers)
        try:
            for row in asked:
                self.row(row, checkpoint)
            if model == "mini":
                self.together(checkpoint, asked)
        finally:
            shutil.rmtree(checkpoint)
            for left in self.scratch.glob("peer-*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def row(self, row: Row, checkpoint: Path) -> None:
        """Build with phipack and with the peer in turn, `repeat` times."""
        out = self.scratch / "ours"
        for number in range(self.repeat):
            _warm(checkpoint)
            row.ours.append(rows.build(checkpoint, (row.recipe,), out, self.calibration))
            row.artifact_bytes = _bytes_below(out)
            print(f"{row.model} {row.recipe}: {row.ours[-1]}", file=sys.stderr, flush=True)
            if row.peer is not None and self.with_peers:
                _warm(checkpoint)
                row.theirs.append(rows.build_peer(row, checkpoint, self.scratch, self.cache, self.converted[number]))
                print(f"  {row.peer}: {row.theirs[-1]}", file=sys.stderr, flush=True)
        if row.peer == "genai" and row.theirs and not row.theirs[-1].failed:
            self.texts.append(self.decode({"phipack": out, "genai": self.scratch / "peer-onnx-int4"}))
        shutil.rmtree(out, ignore_errors=True)
        self.report()

    def report(self) -> str:
        """Return the results so far and write them to `--out`, if set: a run takes most of an hour."""
        text = "\n\n".join([report.table_of(self.chosen), *self.texts])
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            plot = self.out.with_suffix(".svg")
            report.plot(self.chosen, plot)
            what = "Full-size builds" if self.layers is None else f"Builds of {self.layers} layers at full width"
            head = f"{what} compared with the formats' own tools: 2 cores, 24 GiB, random weights."
            self.out.write_text(f"{head}\n\n```\n{text}\n```\n\n![]({plot.name})\n", "utf-8")
        return text

    def decode(self, folders: dict[str, Path]) -> str:
        """Run both ONNX artifacts in onnxruntime-genai, in turn, each in a separate process. Keep the better of two."""
        best: dict[str, dict[str, float]] = {name: {} for name in folders}
        for name, folder in list(folders.items()) * 2:
            command = [sys.executable, "-m", "benchmarks.full_size.decode", str(folder)]
            done = subprocess.run(command, cwd=rows.REPOSITORY, capture_output=True, text=True, check=True)
            for figure, value in json.loads(done.stdout).items():
                best[name][figure] = max(best[name].get(figure, 0.0), value)
        cells = [
            (name, figures["prefill_tokens_per_second"], figures["decode_tokens_per_second"])
            for name, figures in best.items()
        ]
        return table(("mini onnx-int4 in onnxruntime-genai, by", "prefill tok/s", "decode tok/s"), cells)

    def together(self, checkpoint: Path, asked: list[Row]) -> None:
        """Build several recipes from one read, and compare with the sum of separate runs."""
        out = self.scratch / "together"
        alone = {row.recipe: report.seconds(row.ours) for row in asked if row.recipe in TOGETHER}
        if set(alone) != set(TOGETHER):
            return
        runs = []
        for _ in range(self.repeat):
            runs.append(rows.build(checkpoint, TOGETHER, out, self.calibration))
            shutil.rmtree(out, ignore_errors=True)
        share = report.seconds(runs) / sum(alone.values())
        self.texts.append(
            f"{' + '.join(TOGETHER)} of mini from one read: {report.seconds(runs):.1f} s, {share:.2f} x the sum of "
            f"separate runs (≤ 0.8 x), peak {report.peak(runs) / rows.GIB:.2f} GiB"
            + "".join(f"; FAILED: {run.failed}" for run in runs if run.failed)
        )


def _warm(checkpoint: Path) -> None:
    """Read the weights, so that every run finds them in the page cache: a peer of 22 GiB evicts everything from it."""
    for file in checkpoint.glob("*.safetensors"):
        if file.stat().st_size < WARM_LIMIT_BYTES:
            with file.open("rb", buffering=0) as stream:
                while stream.read(1 << 24):
                    pass


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", action="append", metavar="START", help="only rows whose name, such as 'mini onnx-int4', starts so"
    )
    parser.add_argument("--calibration", choices=CALIBRATIONS, default="none", help="of phipack's builds")
    parser.add_argument("--layers", type=int, help="of each model [default: all]; bounds are those of whole models")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--scratch", type=Path, help="a folder with about 45 GB free")
    parser.add_argument("--out", type=Path, help="a Markdown file; the plot is written next to it")
    asked = parser.parse_args(arguments)
    starts = tuple(asked.only or [""])
    chosen = [row for row in rows.planned() if f"{row.model} {row.recipe}".startswith(starts)]
    with tempfile.TemporaryDirectory(dir=asked.scratch) as scratch:
        bench = Bench(Path(scratch), chosen, asked.repeat, with_peers=not asked.no_peers, out=asked.out)
        bench.calibration, bench.layers = asked.calibration, asked.layers
        for model in dict.fromkeys(row.model for row in chosen):
            bench.model(model, [row for row in chosen if row.model == model])
        print(bench.report())


if __name__ == "__main__":
    main(sys.argv[1:])
