"""A long run: `python -m tests.fuzz --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.run import try_input, try_inputs
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--inputs", type=int, default=10_000, help="for each target (10,000)")
    parser.add_argument("--seed", default="long", help="another one is another set of inputs")
    parser.add_argument("--atheris", action="store_true", help="let atheris choose inputs, for ever, for one target")
    given = parser.parse_args()
    for name in given.targets or TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            target = TARGETS[name](Path(folder))
            if given.atheris:
                guided(target, name)
            try_inputs(target, name, given.inputs, seed=given.seed)
        print(f"{name}: {given.inputs} inputs")  # noqa: T201


def guided(target: Target, name: str) -> None:
    """Run atheris, which ends the process. It has a wheel for Linux and macOS; nothing of phipack needs it."""
    import atheris  # type: ignore[import-not-found]

    atheris.instrument_all()
    with tempfile.TemporaryDirectory() as corpus:
        for number, raw in enumerate(target.corpus):
            (Path(corpus) / str(number)).write_bytes(raw)
        atheris.Setup([sys.argv[0], "-max_len=65536", corpus], lambda raw: try_input(target, raw, name))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
