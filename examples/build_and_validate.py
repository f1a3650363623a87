"""Build a bundle from a checkpoint, measure it against the checkpoint, and ask it a question.

    python examples/build_and_validate.py CHECKPOINT OUT

CHECKPOINT is a Hugging Face folder; the bundle is put at OUT. Needs phipack[build]. Exits with 3 where a gate fails.
"""

from __future__ import annotations

import sys

import phipack

TARGET = "iphone-15"
GATES = ["kl_mean<=0.05", "same_top_share>=0.9"]


def show(event: phipack.Step | phipack.Notice | phipack.Phase) -> None:
    """Print each step once, when it is done."""
    if isinstance(event, phipack.Notice):
        print(event.text)
    elif isinstance(event, phipack.Step) and event.done == event.total:
        print(f"  {event.name}: {event.total} {event.unit}")


def main(checkpoint: str, out: str) -> int:
    """Build, validate and generate. Return the exit code."""
    try:
        bundle = phipack.build(checkpoint, "gguf-q8_0", out, target=TARGET, on_progress=show)
        print(f"{out}: {bundle.manifest.total_bytes:,} bytes, {bundle.digest}")
        evidence = phipack.validate(bundle, checkpoint, target=TARGET, gates=GATES, tokens=256, on_progress=show)
        for gate in evidence.gates:
            print(f"{'pass' if gate.passed else 'FAIL'}  {gate}")
        print("".join(phipack.generate(bundle, "What is a phone?", max_new_tokens=16)))
    except phipack.PhipackError as error:
        print(error, file=sys.stderr)  # with a line that says how to fix it
        return error.exit_code
    return 3 if evidence.failed_gates else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) >= 3 else __doc__)
