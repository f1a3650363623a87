"""Bundles, the store that holds their bytes, MLflow, promotion and fetch. Never imports `builders`.

The rooms, from the bottom up; each may import those above it in this list, never the other way round:

| room | what is in it |
|---|---|
| `files/` | staging folders, ownership, locks, large files, digests |
| `bundle/` | manifest, chunks, parts |
| `transfer/` | HTTP, ranges, resumed downloads, local chunks, deltas |
| `store/` | content-addressed blobs in a folder or on S3 |
| `ledger/` | versions, moves and evidence in MLflow; the only room that imports mlflow |
| `catalog/`, `diff/` | the signed catalog; what changed between two bundles |

The verbs stand on top: `promotion.py`, `publication.py`, `fetch.py`, `garbage.py`; below them `roles.py`,
`channel_names.py` and `all_or_none.py`. Start reading at the verb you care about.
"""
