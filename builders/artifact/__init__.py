"""Writing large artifact files, the same for all formats: arrays in order, hashed as they are written.

Start at `array_file.py`; `prefetch.py` computes the next array while one is written; `content_borders.py` says where
chunks of tokenizers and graphs begin.
"""
