"""Export to ONNX with `optimum`, for architectures that phipack's own converters don't know.

optimum needs transformers 4, phipack needs transformers 5: they are never in one process.

- `environment.py`: the Python environment that optimum runs in, created when it is first needed.
- `translation.py`: a checkpoint in transformers 5's form as transformers 4 reads it; refuses what it can't express.
- `in_environment.py`: the script that calls optimum there. Nothing of phipack imports it.
- `verification.py`: the written graph against transformers 5's own model.
- `run.py`: the verb, `export`, which runs that script.
"""

from __future__ import annotations

from builders.optimum_export.environment import optimum_environment, python_arguments, quiet_environment
from builders.optimum_export.run import export

__all__ = ["export", "optimum_environment", "python_arguments", "quiet_environment"]
