"""The formats' own tools, run as their users run them: what ours is measured against. Never part of the product.

- `llama_cpp.py`: llama.cpp's converter (from the llama-cpp-python sdist) and its quantizer.
- `genai.py`: onnxruntime-genai's model builder, in an environment of its own.
- `coremltools_trace.py`: a torch trace converted by coremltools and compressed by its optimizer.
"""
