"""Files on this machine, written so that nothing half-made is seen: staging folders, large files, digests.

Knows nothing of bundles. Start at `staging.py` (write to a sibling folder, verify, rename); `large_file.py` writes and
reads gigabytes past the page cache; `digests.py` names content `sha256:<hex>`.
"""
