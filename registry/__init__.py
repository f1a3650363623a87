"""Bundles, the store that holds their bytes, MLflow, promotion and fetch. Never imports `builders`.

Start reading at:

- `bundle.py`: the manifest, and reading, writing and verifying a bundle folder.
- `placement.py`: write beside, verify, rename: how anything is put in place.
- `store.py`: content-addressed blobs, and bundles made of them; `folder_store.py` keeps them, `store_uris.py` opens
  the one that a text names.
- `versions.py`, `moves.py`: rows of the registry, what a reference comes to, and what a promotion changed. Pure.
- `ledger.py`: writes and reads them in MLflow; `registration.py` and `mlflow_session.py` are its two hands.
- `reading.py`: reads them by the fastest road that is right; `sqlite_reading.py` is the one without MLflow.
- `promotion.py`: channels, history, rollback; `roles.py`: who may.
- `lease.py`, `mlflow_lease.py`: one mover at a time beside a server, whoever dies.
- `differences.py`: what changed between two bundles; `contents.py` and its kinds read weight files' own directories.
- `chunks.py`: a large file's pieces, named by content.
- `fetch.py`: a reference, path or URL in, a verified bundle out.
- `transfer.py`, `http_file.py`, `http_requests.py`: over the web, in ranges; `reuse.py`, `partial.py`: what is here
  already, and what an earlier try left.
- `delta.py`: the file that makes a new bundle's chunks of an old one's; `delta_making.py` makes it, `delta_fetch.py`
  takes it.
- `parts.py`: a bundle in folders of limited size, and joined again.
- `large_file.py`: files of gigabytes, past the page cache.
- `s3_store.py`, `s3_upload.py`, `s3_client.py`: the store on S3; `garbage.py`: what of a store nothing refers to.
- `publication.py`, `catalog_state.py`, `signing.py`, `rollout.py`: a channel becomes a signed catalog.
- `catalog.py`, `catalog_choice.py`, `catalog_fetch.py`: a phone's side of it; `catalog_documents.py`: what both read.
- `serving.py`, `served_catalog.py`: the same over HTTP.
- `delta.py`, `delta_making.py`, `delta_fetch.py`: from one release to the next.
- `parts.py`: bundles in parts for packers.
- `postgresql_lock.py`, `waiting.py`: one at a time in a database, and saying whom a command waits for.
- `mlflow_artifacts.py`: the plugin by which plain MLflow downloads bundles.
"""
