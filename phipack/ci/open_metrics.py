"""Figures of a release in OpenMetrics' text format: GitLab compares them with the target branch's in a merge request.

    # TYPE phipack_kl_mean gauge
    # HELP phipack_kl_mean mean KL divergence … [nat]
    phipack_kl_mean{model="phi",version="1.0.0",cell="iphone-15",recipe="onnx-int4",kind="measured"} 0.0123
    # EOF

Names don't end with the unit, as a name is the figure's name in evidence and gates; the unit is in the help text. The
format: the OpenMetrics specification 1.0, prometheus/OpenMetrics.
"""

from __future__ import annotations

from phipack.api.results import ReleaseReport
from targets.evidence import FIGURES
from targets.printable import one_line


def metrics_of_release(report: ReleaseReport) -> str:
    """Return a gauge for each figure, with a sample for each cell that has it."""
    names = sorted({name for cell in report.cells for name in cell.figures})
    lines = []
    for name in names:
        unit, meaning = FIGURES.get(name, ("1", name))
        lines += [f"# TYPE phipack_{name} gauge", f"# HELP phipack_{name} {_escaped(f'{meaning} [{unit}]')}"]
        for cell in report.cells:
            if name in cell.figures:
                figure = cell.figures[name]
                labels = {
                    "model": report.model,
                    "version": str(report.version),
                    "cell": cell.cell,
                    "recipe": cell.recipe,
                    "kind": figure.kind,
                }
                shown = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels.items())
                lines.append(f"phipack_{name}{{{shown}}} {_number(figure.value)}")
    return "\n".join([*lines, "# EOF"]) + "\n"


def _number(value: float) -> str:
    """Return a number as OpenMetrics writes it; infinity is +Inf there."""
    return repr(float(value)).replace("inf", "Inf") if value < 0 else repr(float(value)).replace("inf", "+Inf")


def _escaped(text: str) -> str:
    return one_line(text).replace("\\", r"\\").replace('"', r"\"")
