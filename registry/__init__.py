"""Bundles, the store that holds their bytes, MLflow, promotion and fetch. Never imports `builders`.

Start reading at:

- `bundle.py`: the manifest, and reading, writing and verifying a bundle folder.
- `placement.py`: write beside, verify, rename: how anything is put in place.
- `store.py`: content-addressed blobs, and bundles made of them.
- `versions.py`, `moves.py`: rows of the registry, what a reference comes to, and what a promotion changed. Pure.
- `ledger.py`: writes and reads them in MLflow; `registration.py` and `mlflow_session.py` are its two hands.
- `reading.py`: reads them by the fastest road that is right; `sqlite_reading.py` is the one without MLflow.
- `promotion.py`: channels, history, rollback.
- `fetch.py`, `http_source.py`: a reference, path or URL in, a verified bundle out.
- `mlflow_artifacts.py`: the plugin by which plain MLflow downloads bundles.
"""
