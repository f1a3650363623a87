"""Measure something of your own, put a gate on it, and let promotion depend on it.

    python examples/custom_gate.py CHECKPOINT BUNDLE REFERENCE

BUNDLE was built from CHECKPOINT; it is registered as REFERENCE, such as phi-3-mini:1.0.0@iphone-15, and promoted to
candidate. Needs phipack[build,registry]. Here the figure is the share of answers that end by themselves.
"""

from __future__ import annotations

import sys

import phipack

PROMPTS = ["Say yes.", "What is 2 + 2?", "Name a colour."]
LIMIT = 64  # tokens
FIGURE = "ended_share"


def ended_share(bundle: phipack.Bundle) -> phipack.Figure:
    """Ask each question, and count the answers that end before the limit."""
    answers = [list(phipack.generate(bundle, prompt, max_new_tokens=LIMIT)) for prompt in PROMPTS]
    ended = sum(len(pieces) < LIMIT for pieces in answers)
    return phipack.Figure(value=ended / len(PROMPTS), unit="share", kind="measured", on=f"{len(PROMPTS)} prompts")


def main(checkpoint: str, folder: str, reference: str, least: str = "0.9") -> int:
    """Measure, judge, register and promote. Return the exit code."""
    try:
        bundle = phipack.open_bundle(folder)
        evidence = phipack.validate(bundle, checkpoint, target="iphone-15", gates=["kl_mean<=0.05"], tokens=256)
        evidence = evidence.model_copy(update={"figures": evidence.figures | {FIGURE: ended_share(bundle)}})
        evidence = phipack.judge(evidence, {FIGURE: phipack.Gate(at_least=float(least))}, asked_by="our app")
        registry = phipack.Registry()
        registry.register(bundle, evidence, as_=reference)
        registry.promote(reference, to="candidate")
    except phipack.GateError as error:
        for failure in error.failures:
            print(f"{failure.cell}: {failure.problem}", file=sys.stderr)
        return error.exit_code
    except phipack.PhipackError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{reference} is the candidate: {FIGURE} is {evidence.figures[FIGURE].value:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) >= 4 else __doc__)
