"""The plain directories of weight files, read from any stream without their formats' libraries.

- `forwards.py`: a file of a known size, read once; `protobuf.py`: protobuf's wire format.
- `gguf_header.py`: keys and tensors of a GGUF file. `onnx_graph.py`: operators of an ONNX graph.
  `coreml_model.py`: the specification version of a Core ML model.
"""
