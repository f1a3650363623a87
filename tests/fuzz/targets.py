"""The parsers, each with the bytes that it is given when nothing is wrong.

What is not here: weights in llama.cpp, onnxruntime and Core ML (native code, in a process of its own), MLflow's and
S3's answers before their clients have parsed them, and the exchange of HTTP itself (tests/registry/transfer).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fuzz import benchmarks, bundles, checkpoints, devices, metadata, records, written
from tests.fuzz.target import Target

TARGETS: dict[str, Callable[[Path], Target]] = {
    "manifest": bundles.manifest_target,
    "delta": bundles.delta_target,
    "parts": bundles.parts_target,
    "evidence": bundles.evidence_target,
    "measurements": bundles.measurements_target,
    "gguf": bundles.gguf_target,
    "onnx": bundles.onnx_target,
    "coreml": bundles.coreml_target,
    "safetensors": checkpoints.header_target,
    "index": checkpoints.index_target,
    "config": checkpoints.config_target,
    "architecture": checkpoints.architecture_target,
    "tokenizer_config": checkpoints.tokenizer_config_target,
    "adapter": checkpoints.adapter_target,
    "ranks": checkpoints.ranks_target,
    "tokenizer_json": checkpoints.tokenizer_json_target,
    "sentencepiece": checkpoints.pieces_model_target,
    "core_ml": checkpoints.core_ml_target,
    "tags": records.tags_target,
    "documents": records.documents_target,
    "keys": records.keys_target,
    "root": metadata.root_target,
    "timestamp": metadata.role_target("timestamp"),
    "snapshot": metadata.role_target("snapshot"),
    "targets": metadata.role_target("targets"),
    "install_id": records.install_id_target,
    "record": records.record_target,
    "project": written.project_target,
    "llama_bench": benchmarks.llama_bench_target,
    "genai_benchmark": benchmarks.genai_benchmark_target,
    "ai_hub": benchmarks.ai_hub_target,
    "executorch": benchmarks.executorch_target,
    "xctest": benchmarks.xctest_target,
    "devicectl": devices.devicectl_target,
    "ios_run": devices.ios_run_target,
    "farm_outputs": devices.farm_outputs_target,
    "headers": written.headers_target,
    "addresses": written.addresses_target,
}
