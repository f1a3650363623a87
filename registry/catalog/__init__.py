"""A channel as a signed static catalog: documents, signing, choice for a device, the client, rollout, serving.

Start at `documents.py` (what a catalog consists of). Publisher's side: `published_state.py`, `signing.py`,
`rollout.py`, `published_check.py` (opens what was written, as a client). Device's side: `client.py` (trusted metadata),
`choice.py` (which bundle for this device). `served_catalog.py` and `http_service.py` serve a catalog over HTTP.
"""
