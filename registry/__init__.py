"""Bundles, the store that holds their bytes, MLflow, promotion and fetch. Never imports `builders`.

Start reading at:

- `bundle.py`: the manifest, and reading, writing and verifying a bundle folder.
- `placement.py`: write beside, verify, rename: how anything is put in place.
- `store.py`: content-addressed blobs. `ledger.py`: the only module that imports mlflow.
- `promotion.py`: channels, history, rollback. `fetch.py`: a reference, path or URL in, a verified bundle out.
"""
