"""Bytes over HTTP into verified files: requests, ranges, resumed downloads, local chunks and deltas.

Start at `bundle_download.py` (a whole bundle), then `download.py` (one file, over several connections and from what is
on this machine already). `http.py` makes requests over the connections of `connections.py`, which follow
`network_settings.py` (CAs, proxies, timeouts), at the least rate of `pace.py`, to addresses as `http_address.py` parses
them; `header_values.py` reads numbers and dates of headers. `ranges.py` reads one remote file by ranges, `remote.py`
describes a bundle on a server, `partial.py` keeps what an earlier try received, `local_chunks.py` finds bytes in
bundles on this machine, `destination.py` checks the folder that a bundle goes to. `delta.py` is the format of the delta
file, `delta_writer.py` writes one, `delta_download.py` chooses and uses one.
"""
