"""Walk commands by hand: `python -m tests.faults [COMMAND…] [--fault FAULT] [--points all] [--most N]`, a line a walk.

Without COMMAND all of them, under every fault. A line reads `COMMAND, FAULT: WALKED of POINTS`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

from tests.faults.commands import COMMANDS
from tests.faults.effects import FAULTS, Which
from tests.faults.walker import walking


def main() -> int:
    """Walk; 1 where a walk found a problem."""
    words = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    words.add_argument("commands", nargs="*", metavar="COMMAND", help="of: " + ", ".join(COMMANDS))
    words.add_argument("--fault", action="append", choices=FAULTS)
    words.add_argument("--points", default="distinct", choices=get_args(Which), help="sample: a few")
    words.add_argument("--most", type=int, metavar="N", help="of more points, every second, or every third, …")
    asked = words.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="phipack-walk-") as place, walking(Path(place)) as walk:
        for command in asked.commands or COMMANDS:
            for fault in asked.fault or FAULTS:
                start = time.monotonic()
                found = walk(command, fault, which=asked.points, most=asked.most)
                seconds = time.monotonic() - start
                counts = f"{found['walked']} of {found['felt']} points, {len(found['problems'])} problems"
                sys.stdout.write(f"{command}, {fault}: {counts}, {seconds:.0f} s\n")
                sys.stdout.writelines(f"{problem}\n\n" for problem in found["problems"])
                sys.stdout.flush()
                failed = failed or bool(found["problems"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
