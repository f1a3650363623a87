"""`config.json` as transformers 4.57.6 saves it: NAME.json was saved from `v4_config(NAME)` of `transformers_5`.

`devtools/saved_configs.py` wrote the files, in the environment of `phipack export`; `tests/builders/optimum_export/`
writes them again there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def saved_config(name: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / f"{name}.json").read_bytes())
