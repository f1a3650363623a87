"""transformers' tokenizers without torch, which they never use and which takes 3 s to import.

Every config of transformers imports `transformers.modeling_rope_utils` (5.24), and that module imports torch, for the
functions of models. It gets a stand-in instead, which imports torch when something is first asked of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

_TORCH, _USER = "torch", "transformers.modeling_rope_utils"


def put_torch_off() -> None:
    """Import what imports torch with a stand-in for it. Nothing is done where either is imported already."""
    import transformers.utils  # noqa: F401 - what takes a second comes first: the stand-in is in place for milliseconds

    if _TORCH in sys.modules or _USER in sys.modules or (found := importlib.util.find_spec(_TORCH)) is None:
        return
    stand_in = _StandIn(_TORCH)
    stand_in.__spec__ = found
    sys.modules[_TORCH] = stand_in
    try:
        importlib.import_module(_USER)
    finally:
        stand_in.leave()


class _StandIn(ModuleType):
    def leave(self) -> None:
        """Let the next import of the name be of the package itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]

    def __getattr__(self, name: str) -> Any:
        self.leave()
        return getattr(importlib.import_module(self.__name__), name)
