"""Calls optimum: `python -I in_environment.py CHECKPOINT OUT REPORT`, in the environment of `environment.py`.

A script: phipack starts it by its path and never imports it, and it imports nothing of phipack. It writes REPORT, a
JSON object: empty where the export succeeded, else `type` and `message` of what was raised.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

TASK = "text-generation-with-past"


def main() -> None:
    """Export one checkpoint."""
    checkpoint, out, report = sys.argv[1:]
    raised: dict[str, str] = {}
    warnings.simplefilter("ignore")  # deprecations inside the libraries: nothing that a user can act on
    try:
        from optimum.exporters.onnx import main_export

        main_export(checkpoint, out, task=TASK, do_validation=False, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other process turns it into an error of its own
        raised = {"type": type(error).__name__, "message": str(error)}
    Path(report).write_text(json.dumps(raised, allow_nan=False), "utf-8")


if __name__ == "__main__":
    main()
