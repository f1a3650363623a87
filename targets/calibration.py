"""How much a build learns from a calibration text before it quantizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

# none: round to nearest, as the format's own tools do. light: the mean square of what each column of a matrix is
# multiplied with. full: all second moments of it, and GPTQ.
Calibration = Literal["none", "light", "full"]
CALIBRATIONS: tuple[Calibration, ...] = get_args(Calibration)


@dataclass(frozen=True)
class CalibrationSettings:
    """Which text a calibration reads. `text`: the mix that comes with phipack by default."""

    text: Path | None = None
