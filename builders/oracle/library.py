"""transformers itself: its version, kept quiet, and its errors as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from builders.quiet_transformers import quiet_transformers
from targets.errors import MeasurementError

_TOOLS = ("transformers", "torch", "tokenizers", "sentencepiece", "jinja2")  # numbers, ids, rendered prompts


def oracle_tools(*, is_merged: bool) -> tuple[str, ...]:
    """Return the packages that the oracle's verdict depends on; with another version of one it is asked again.

    `is_merged`: the checkpoint is a base with an adapter, which is held to peft's merge.
    """
    return (*_TOOLS, "peft") if is_merged else _TOOLS


def installed_version() -> str:
    """Return the version of transformers that is installed."""
    return version("transformers")


@contextmanager
def transformers_reads(folder: Path, what: str) -> Iterator[None]:
    """Let transformers read a folder without its messages and bars.

    Raises:
        MeasurementError: transformers raised an error, of whatever class: it has no family of its own.
    """
    try:
        with quiet_transformers():
            yield
    except MeasurementError:
        raise
    except Exception as error:
        said = str(error).strip() or type(error).__name__
        raise MeasurementError(
            f"{folder}: transformers {installed_version()} can't read the {what}, so nothing can be held to it: "
            f"{said.splitlines()[0]}",
            fix="open the folder with transformers' AutoModelForCausalLM and AutoTokenizer; where another version of "
            "transformers reads it, save it again with that one (save_pretrained) and build from the new folder",
        ) from error
