"""Five prepared releases of the real model, some with a planted defect, for people who try whether the report shows it.

    python -m devtools.review_trial OUT [--set first|second|third|fourth|fifth] [--seed N] [--work DIR]

    OUT/1/report.html … OUT/5/report.html    what a reviewer sees: `phipack report assistant-N:1.1.0`
    OUT/key.md                               which releases are sound, and what is wrong with the others

The releases are those of `review_cases.py`, in an order that the seed decides. Each is built, validated by the suite
`quick`, registered in a registry of its own in DIR, and compared with 1.0.0, which production has. DIR keeps bundles
and evidence: a second run makes the pages again. The first trial has six cells to build and validate (measured:
`gguf-q4_k_m`, calibrated, took 124 processor-seconds).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import phipack
from builders.checkpoint import Checkpoint
from devtools import real_model
from devtools.further_trained import TRAININGS
from devtools.further_trained import write as write_trained
from devtools.packages import default_cache
from devtools.review_cases import CASES, Case, Made
from devtools.review_changes import write_faulty, write_source
from phipack.api.arguments import as_evidence
from phipack.api.registry import Registry
from registry.bundle.folder import Bundle, open_bundle
from registry.files.output_file import write_output_file
from targets.budget import Budget
from targets.evidence import Evidence

CONTEXT = 2048
PROJECT = """\
model = "assistant"
version = "1.1.0"
checkpoint = "unused"

[evaluation]
text = {text}
suite = "quick"

[gates]
kl_mean = {{ at_most = 0.25 }}
same_top_share = {{ at_least = 0.7 }}

[[cells]]
target = "galaxy-s24"
recipe = "gguf-q4_k_m"
"""


@dataclass(frozen=True)
class Workshop:
    """Where everything is made: checkpoints, bundles, evidence, the registry."""

    folder: Path
    model: real_model.RealModel

    def checkpoint(self, source: str) -> Path | Checkpoint:
        """Return the real model with a change, or trained further; either is made the first time."""
        if not source:
            return self.model.checkpoint
        folder = self.folder / "checkpoints" / source
        training = TRAININGS.get(source)
        if not folder.is_dir():
            if training is None:
                write_source(self.model.checkpoint, source, folder)
            else:
                write_trained(self.model.checkpoint, training, folder)
        is_adapter = training is not None and training.how == "lora"
        return phipack.open_checkpoint(self.model.checkpoint, adapter=folder) if is_adapter else folder

    def bundle(self, made: Made) -> Bundle:
        """Return a cell's bundle; it is built the first time."""
        folder = self.folder / "bundles" / made.name
        if folder.is_dir():
            return open_bundle(folder)
        if made.fault:
            write_faulty(self.bundle(replace(made, fault="")), made.fault, folder)
            return open_bundle(folder)
        return phipack.build(
            self.checkpoint(made.source),
            made.recipe,
            folder,
            context_length=CONTEXT,
            kv_cache=made.kv_cache or None,
            budget=Budget.of_bits(float(made.budget)) if made.budget else None,
            home=self.folder / "home",
        )

    def evidence(self, made: Made) -> Evidence:
        """Return a cell's evidence; it is measured the first time."""
        path = self.folder / "evidence" / f"{made.name}.json"
        if not path.is_file():
            _say(f"validating {made.name}")
            found = phipack.validate(
                self.bundle(made), self.checkpoint(made.source), target=made.target, project=self.project()
            )
            if not found.passed:
                raise SystemExit(f"{made.name} does not pass, so that nobody need look: {found.shortcomings}")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_output_file(path, found.to_json().encode())
        return as_evidence(path)

    def project(self) -> Path:
        """Return the project file, whose gates every release has to pass. Its folder keeps what validation caches."""
        path = self.folder / "phipack.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PROJECT.format(text=json.dumps(str(self.model.openwebtext), allow_nan=False)), "utf-8")
        return path


def make_trial(out: Path, cases: Sequence[Case], seed: int, workshop: Workshop) -> None:
    """Write the reports of all cases, shuffled, and the key."""
    shuffled = random.Random(seed).sample(cases, len(cases))
    for number, case in enumerate(shuffled, start=1):
        model = f"assistant-{number}"
        registry = Registry(home=workshop.folder / "registries" / str(seed), user="release-manager@build-1")
        _register(registry, f"{model}:1.0.0", case.before, workshop)
        registry.promote(f"{model}:1.0.0", to="production", reason="first release, passed review")
        _register(registry, f"{model}:1.1.0", case.after, workshop)
        page = registry.report(f"{model}:1.1.0")
        folder = out / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        write_output_file(folder / "report.html", page.html)
        _say(f"{number}: {case.name}: {page.verdict}")
    write_output_file(out / "key.md", _key(shuffled).encode())


def _register(registry: Registry, reference: str, cells: Sequence[Made], workshop: Workshop) -> None:
    registry.plan_release(reference, [one.target for one in cells])
    for one in cells:
        registry.register(workshop.bundle(one), workshop.evidence(one), f"{reference}@{one.target}")


def _key(cases: Sequence[Case]) -> str:
    lines = ["# Key of the trial", "", "Not for reviewers.", ""]
    for number, case in enumerate(cases, start=1):
        lines.append(f"- {number}: {'sound' if case.is_sound else '**defect**'} ({case.name}). {case.why}")
    return "\n".join(lines) + "\n"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Make a trial."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the reports and the key")
    parser.add_argument("--set", choices=[*CASES], default="first", help="which releases [default: first]")
    parser.add_argument("--seed", type=int, default=1, help="decides their order [default: 1]")
    parser.add_argument("--work", type=Path, help="folder to keep bundles in [default: CACHE/review-trial]")
    given = parser.parse_args()
    work = given.work or default_cache() / "review-trial"
    make_trial(given.out, CASES[given.set], given.seed, Workshop(work.absolute(), real_model.ensure()))


if __name__ == "__main__":
    main()
