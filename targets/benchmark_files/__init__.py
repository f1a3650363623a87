"""Files that other projects' benchmarks write, read into figures of a device.

    FILE ──format──> parser ──> BenchmarkResult, one a run ──claim──> Measurement (targets/measurement.py)

No such file has the digest of what was run. That a figure is of a certain bundle is therefore a claim of whoever
imports it: `claim.py` refuses one that the file contradicts, and marks every other one as a claim.

- `result.py`: what a file says of one run. `formats.py`: which parser reads a file.
- `llama_bench.py`, `genai_benchmark.py`, `ai_hub.py`, `executorch.py`, `xctest.py`: one format each, with its source.
- `json_rows.py`, `yaml_text.py`: JSON and YAML of others, read within limits.
"""

from targets.benchmark_files.claim import Claim, claimed_measurement
from targets.benchmark_files.formats import FORMATS, read_benchmark
from targets.benchmark_files.result import BenchmarkResult

__all__ = ["FORMATS", "BenchmarkResult", "Claim", "claimed_measurement", "read_benchmark"]
