"""How much a build learns from a calibration text before it quantizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

# none: round to nearest, as the format's own tools do. light: the mean square of what each column of a matrix is
# multiplied with. full: all second moments of it, and GPTQ.
Calibration = Literal["none", "light", "full"]
CALIBRATIONS: tuple[Calibration, ...] = get_args(Calibration)


def labelled(recipe: str, calibration: Calibration, budget: str = "", kv_cache: str = "") -> str:
    """Return a recipe's name with its calibration, budget and KV cache, if there are any, for names of jobs.

    Such as `gguf-q4_k_m-light`, `gguf-q4_k_m-light-2000000000B` and `gguf-f16-kv_q8_0`.
    """
    parts = (recipe, "" if calibration == "none" else calibration, budget, kv_cache and f"kv_{kv_cache}")
    return "-".join(filter(None, parts))


@dataclass(frozen=True)
class CalibrationSettings:
    """What a calibration learns from.

    `text`: a text to read; the mix that comes with phipack by default. `imatrix`: an importance matrix that llama.cpp's
    llama-imatrix has made of the same model, in place of a text; it has what `light` needs, and no more.
    """

    text: Path | None = None
    imatrix: Path | None = None
