"""The formats' own tools, run as their users run them, to compare phipack with. Not part of the product.

- `llama_cpp.py`: llama.cpp's converter (from the llama-cpp-python sdist) and its quantizer.
- `genai.py`: onnxruntime-genai's model builder, in a separate environment.
- `olive_gptq.py`: Olive's GPTQ, in the same environment, for genai's builder.
- `autoround.py`: AutoRound, in an environment of its own, which phipack does not create.
- `torch_dynamo.py`: torch's own ONNX exporter.
- `coremltools_trace.py`: a torch trace converted by coremltools and compressed by its optimizer.
"""
