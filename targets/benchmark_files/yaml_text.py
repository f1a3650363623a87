"""YAML of other projects, as plain data within limits: no tags, no aliases (which can stand for gigabytes), no merges.

PyYAML comes with `phipack[build]` and `phipack[registry]`.
"""

from __future__ import annotations

from typing import Any

from targets.benchmark_files.result import refused
from targets.errors import MeasurementError
from targets.installation import install_command

BYTES_LIMIT = 1 << 20
DEPTH_LIMIT = 32
NODES_LIMIT = 100_000


def yaml_of(raw: bytes, source: str) -> Any:
    """Return the value of a YAML document. Raises `BenchmarkFileError`, or `MeasurementError` without PyYAML."""
    try:
        import yaml
    except ImportError as error:
        raise MeasurementError(f"{source}: YAML can't be read without PyYAML", fix=install_command("build")) from error
    if len(raw) > BYTES_LIMIT:
        raise refused(source, "", f"more than {BYTES_LIMIT:,} bytes of YAML")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = raw.decode("utf-8")
        _check_events(yaml.parse(text, Loader=loader), source)
        return yaml.load(text, Loader=loader)  # noqa: S506 - a safe loader, chosen above
    except UnicodeDecodeError as error:
        raise refused(source, "", f"it is not UTF-8: {error.reason} at byte {error.start}") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise refused(source, "", f"not YAML: {reason}") from error


def _check_events(events: Any, source: str) -> None:
    depth = 0
    for count, event in enumerate(events):
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if kind == "AliasEvent" or getattr(event, "tag", None):
            raise refused(source, f"line {event.start_mark.line + 1}", "an alias or a tag, which perf.yaml never has")
        if depth > DEPTH_LIMIT or count > NODES_LIMIT:
            raise refused(source, "", f"nested deeper than {DEPTH_LIMIT} levels, or more than {NODES_LIMIT:,} values")
