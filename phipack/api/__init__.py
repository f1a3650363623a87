"""The public API, which every command calls: what people type in, frozen dataclasses out. It prints nothing.

- `registry.py`: `Registry`, for what needs MLflow or a store; start here.
- `registry_releases.py`: its releases; `releasing.py` and `jobs.py`: what they do.
- `building.py`, `validation.py`: checkpoints in, bundles and evidence out. `fitting.py`: which recipe fits on what.
- `evidence_import.py`: what was measured on devices, by us and by others.
- `delivery.py`: bundles by path or URL, in parts, and over HTTP. `keys.py`: the keys that sign a catalog.
- `arguments.py`: text or object in, object out. `results.py`: reports.

`phipack` (`phipack/__init__.py`) exports all of it, and imports each module when one of its names is first used.
"""
