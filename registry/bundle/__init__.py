"""What a bundle is: its manifest, its folder on disk, its chunks and its parts.

Start at `manifest.py` (the schema of `manifest.json`), then `folder.py` (open, verify, seal a folder). `chunks.py` cuts
large files into pieces named by their content; `parts.py` splits a bundle into folders of limited size and joins them
again.
"""
