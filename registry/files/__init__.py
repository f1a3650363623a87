"""Files on this machine, written so that nothing half-made is seen: folders, files, locks, digests.

Knows nothing of bundles. Start at `staging.py` (folders: write to a sibling, verify, rename) and `atomic.py` (the same
for one file). `owned.py` refuses what another user, or a link, may have put there; `output_file.py` checks and writes
the file that a user names for a result. `lock.py` keeps other processes out, and `lock_wait.py` reports whom a process
waits for; `large_file.py` writes and reads gigabytes past the page cache; `digests.py` names content `sha256:<hex>`.
"""
