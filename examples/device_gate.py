"""Hold a release to a speed on a device, and see what a measurement, a claim and a prediction count for.

    python examples/device_gate.py examples/a16/phipack.toml examples/a16/published.json

The project's gate asks for 12 tokens per second on the device; the file is a measurement, here the published one of
phi-3-mini on the A16. Needs the base install. A release applies the same gates to the bundles that it builds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import phipack
from targets.device_evidence import device_figures
from targets.evidence import judge_figures
from targets.measurement import Measurement
from targets.project import load_project

FIGURE = "device_decode_tokens_per_second"


def main(project: str, measurement: str) -> int:
    """Judge every cell with and without the measurement. Return the exit code."""
    try:
        cells = load_project(Path(project)).cells
        found = Measurement.read(Path(measurement))
    except phipack.PhipackError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    passed = True
    for cell in cells:
        gates = {FIGURE: cell.gates["project"][FIGURE]}
        strict = {FIGURE: gates[FIGURE].model_copy(update={"accept_claims": False})}
        figures = device_figures([found], cell.target)
        for title, known, asked in (
            ("nothing measured", {}, gates),
            ("claims refused", figures, strict),
            ("claims accepted", figures, gates),
        ):
            (result,) = judge_figures(known, asked, asked_by="project")
            print(f"{cell.name}, {title}: {'pass' if result.passed else 'FAIL'}: {result}")
        passed = passed and result.passed
        print(f"  {figures[FIGURE].kind} on {figures[FIGURE].on}")
    return 0 if passed else 3


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) >= 3 else __doc__)
