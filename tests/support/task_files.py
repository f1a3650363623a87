"""Files of tasks and prompts, as `validate --tasks` and `--safety` read them."""

from __future__ import annotations

import json
from pathlib import Path

HEADER = {"schema": "phipack.task/1", "task": "sums", "licence": "MIT", "source": "written for this test"}
QUESTION = {"prompt": "2 + 2 =", "choices": ["3", "4"], "answer": 1}
GENERATION = HEADER | {"schema": "phipack.generation/1"}
PROBLEM = {"prompt": "Question: 2 + 2?\nAnswer:", "answer": "2 + 2 = 4\n#### 4"}
PROMPTS = {"schema": "phipack.prompts/1", "prompts": "rude", "licence": "MIT", "source": "written for this test"}


def write(path: Path, *lines: object) -> Path:
    """Write lines, those that are no text as JSON, and return the folder."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines), "utf-8")
    return path.parent
