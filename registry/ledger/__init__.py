"""What is registered, kept in MLflow: versions, evidence, channels, their history. The only room that imports mlflow.

Start at `versions.py` and `channel_moves.py` (rows and moves, pure), then `ledger.py` (reads and writes them) and
`reader.py` (the fastest correct way to read). `mlflow_client.py` connects, `mlflow_errors.py` wraps errors. One mover
at a time: `lease.py` on a server, `postgresql_lock.py` in a database. `artifact_plugin.py` lets plain MLflow download
bundles: what `artifact_uris.py` can name and, in a server, `served_stores.py` allows.
"""
