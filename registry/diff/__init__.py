"""What changed between two bundles: files, metadata, tensors, evidence.

Start at `compare.py`; `contents.py` and, for each format, `gguf_contents.py` and `onnx_contents.py` read the
directory of a weight file; `layers.py` says whose weights changed without reading any.
"""
