"""The process that walks (walk.py), as its tests talk to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults.effects import compiled

Walk = Callable[..., dict[str, Any]]  # of a command's name and a fault; None: of those that only read
WHICH = os.environ.get("FAULTS", "sample")  # effects.Which
_OURS = ("MLFLOW_", "PHIPACK_")


@contextmanager
def walking(place: Path) -> Iterator[Walk]:
    """Start it with the library preloaded, and end it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    environment |= {
        "LD_PRELOAD": str(compiled(place)),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",  # torch's threads don't outlive a fork
        "no_proxy": "*",
        "HOME": str(place),
    }
    walker = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.walk", str(place)],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with walker:

        def walk(
            command: str | None, fault: str = "", *, which: str = WHICH, most: int | None = None
        ) -> dict[str, Any]:
            assert walker.stdin is not None
            assert walker.stdout is not None
            asked = {"command": command, "fault": fault, "which": which, "most": most}
            print(json.dumps(asked), file=walker.stdin, flush=True)
            answer: dict[str, Any] = json.loads(walker.stdout.readline())
            return answer

        yield walk
        assert walker.stdin is not None
        walker.stdin.close()
        assert walker.wait(60) == 0
