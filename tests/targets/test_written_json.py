"""Every document that is written is JSON: without NaN and Infinity, which Python writes unless it is forbidden."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What is no document of ours, with the reason.
EXEMPT = {
    "builders/gguf/byte_level.py": "an error's text",
    "builders/gguf/pieces.py": "an error's text",
    "builders/optimum_export/translation.py": "another's config, which optimum's Python reads",
    "builders/oracle/excerpt.py": "another's config, which transformers reads as it was",
    "builders/runtime/isolation.py": "lines between two processes of ours",
    "builders/templates/process.py": "lines between two processes of ours",
    "builders/templates/program.py": "lines between two processes of ours; and the template's own filter",
    "builders/validation/speed.py": "a line between two processes of ours",
    "targets/config_keys.py": "an error's text",
    "targets/printable.py": "single letters",
    "targets/strict_json.py": "looks for letters that can't be written",
}


def test_every_document_is_written_without_what_json_does_not_have() -> None:
    lenient = {path for path, call in _dumps() if not _forbids_nan(call)}
    assert lenient == EXEMPT.keys()
    assert len(list(_dumps())) > 30


def _dumps() -> Iterator[tuple[str, ast.Call]]:
    for room in ("phipack", "registry", "builders", "targets"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dump", "json.dumps"):
                    yield str(path.relative_to(ROOT)), node


def _forbids_nan(call: ast.Call) -> bool:
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    return given.get("allow_nan") == "False"
