"""How soon `phipack --help` answers: the promise is 300 ms.

python -m benchmarks.start [--runs 21]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

PROMISED_SECONDS = 0.3


def main() -> int:
    """Run it and print the figures. Return 1 where the promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=21)
    times = []
    for _ in range(parser.parse_args().runs):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "phipack", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    print(f"phipack --help: median {statistics.median(times) * 1000:.0f} ms, fastest {min(times) * 1000:.0f} ms")
    return int(statistics.median(times) >= PROMISED_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
