"""The formats' own tools, run as their users run them, to compare phipack with. Not part of the product.

- `llama_cpp.py`: llama.cpp's converter (from the llama-cpp-python sdist) and its quantizer.
- `genai.py`: onnxruntime-genai's model builder, in a separate environment.
- `coremltools_trace.py`: a torch trace converted by coremltools and compressed by its optimizer.
"""
