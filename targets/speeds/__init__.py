"""Which share of a device's memory bandwidth decoding reaches, learned from speeds that were published or measured.

`published.toml`: the published ones, each with its source. `observations.py`: speeds as observations of the share.
`efficiency.py`: the statistical model, with its interval and its leave-one-out error.
"""

from targets.speeds.efficiency import Efficiency, efficiency_of
from targets.speeds.observations import Observation, measured_observation, published_observations, runtime_of

__all__ = [
    "Efficiency",
    "Observation",
    "efficiency_of",
    "measured_observation",
    "published_observations",
    "runtime_of",
]
