"""Core ML: `model.mlpackage`, an ML Program for iOS 18 and macOS 15 with its KV cache as state.

Start at `convert.py`. `program.py` writes the decoder as MIL operations and `positions.py` its masks and rotary
positions; `interface.py` names its functions and inputs, and `description.py` says what they mean to apps; `weights.py`
and `quantize.py` compute its constants as `targets/storage/coreml.py` plans, one at a time; `package.py` writes the
files; `library.py` imports coremltools. `builders/runtime/coreml/` runs them.
"""

from builders.coreml.convert import artifact_sizes, convert
from builders.coreml.interface import EDGE_FACT
from builders.coreml.package import PACKAGE_NAME

__all__ = ["EDGE_FACT", "PACKAGE_NAME", "artifact_sizes", "convert"]
