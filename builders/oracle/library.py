"""transformers itself: its version, kept quiet, and its errors as ours."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from targets.errors import MeasurementError


def installed_version() -> str:
    """Return the version of transformers that is installed."""
    return version("transformers")


@contextmanager
def transformers_reads(folder: Path, what: str) -> Iterator[None]:
    """Let transformers read a folder without its messages and bars.

    Raises:
        MeasurementError: transformers raised an error, of whatever class: it has no family of its own.
    """
    from transformers.utils import logging

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
