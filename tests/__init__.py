"""The tests. What is set here is set before any library is imported."""

import os

# What somebody has set for their own use (a width, colours, a registry, credentials) must not decide a test.
for _name in list(os.environ):
    _own = _name.startswith(("MLFLOW_", "PHIPACK_", "AWS_")) and _name != "PHIPACK_CACHE"
    if _own or _name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        del os.environ[_name]

# Workers share the processors. Libraries that start a thread a processor in each of them wait for one another.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _workers > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))
