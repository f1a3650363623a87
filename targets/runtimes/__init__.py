"""What a bundle needs of the runtime that an app ships, and what an app offers.

- `version.py`: versions of runtimes and their order.
- `requirement.py`: a bundle's needs: features of its files, and for each runtime the versions that have them.
- `table.toml`, `table.py`: since which version a runtime has a feature, each row with its source.
- `offer.py`: the runtimes that an app ships; what a bundle needs and the app does not have.
- `stated.py`: that list in TOML. `expected.py`: the features that a recipe will use, before a bundle is built.
"""

from targets.runtimes.offer import NO_OFFER, Offer, Shortfall, remedy, shortfalls
from targets.runtimes.requirement import Requires, RuntimeNeed, VersionGap

__all__ = ["NO_OFFER", "Offer", "Requires", "RuntimeNeed", "Shortfall", "VersionGap", "remedy", "shortfalls"]
