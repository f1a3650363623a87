"""ONNX for onnxruntime-genai: a graph written node by node, and its arrays in one data file.

Start at `convert.py`. `decoder.py`, `attention.py`, `positions.py`, `rotary.py` and `sparse.py` write the graph of
`graph.py`; `weights.py` turns tensors into nodes; `datafile.py` assigns arrays their offsets, then writes them;
`storing.py` and `quantize.py` compute them as `targets/storage/onnx.py` plans; `runtime_config.py` drives the graph.
"""

from builders.onnx.convert import EDGE_FACT, GRAPH_NAME, artifact_sizes, convert

__all__ = ["EDGE_FACT", "GRAPH_NAME", "artifact_sizes", "convert"]
