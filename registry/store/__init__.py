"""The store: the bytes of all bundles, each blob once, named by its content. One protocol, two places.

Start at `protocol.py` (`Store` and its laws); `folder.py` and `s3.py` implement it; `uris.py` opens the store that a
URI names. `s3_client.py` is the only import of boto3; `s3_upload.py`, `s3_stream.py`, `s3_bundle.py` and
`s3_probe.py` are its pieces.
"""
