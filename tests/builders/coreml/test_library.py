"""coremltools without what it could convert from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys
from targets.own_process import is_own_process
is_own_process()
from builders.coreml.library import load_coremltools
load_coremltools()
print(sorted({"coremltools", "sklearn", "scipy", "torch", "transformers"} & sys.modules.keys()))
"""


def test_a_process_of_phipacks_own_imports_coremltools_alone() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", _PROGRAM], cwd=root, check=True, capture_output=True, text=True)
    assert done.stdout == "['coremltools']\n"
