"""AutoRound on the checkpoint that phipack quantizes: the KL of its 4-bit weights, with its time and memory.

    python -m benchmarks.peers.autoround windows FOLDER                              with phipack's environment
    python benchmarks/peers/autoround.py quantize FOLDER --scheme SCHEME [--iterations 200] [--device cuda]

`windows` writes the models' files, the windows that are measured (of five texts) and those to calibrate with (phipack's
built-in mix, and Wikipedia) into FOLDER. `quantize` needs no phipack but an environment of its own, on a machine with a
GPU if there is one: torch, transformers, auto-round 0.16.1, and gguf for the GGUF schemes. SCHEME:

    int4              blocks of 32 with a zero point and a float16 scale, as `onnx-int4` and `coreml-int4` store them;
                      the head in 8-bit blocks of 32, rounded to nearest, as `onnx-int4` has it
    gguf:q4_k_m, …    AutoRound's own file; its tensors are dequantized by the gguf library
    nearest           no AutoRound: `int4` rounded to nearest

KL is of float32 logits by torch, in nats, over all positions, and not of a runtime's: a runtime's own rounding of
activations comes on top of it. `--model dithered` measures the model of devtools/dithered.py, on which types can be
compared; `--padded` that of devtools/padded.py, which K-quants can store.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 32
CALIBRATIONS = ("mix", "wikipedia")


def main() -> None:
    """Run one of the two commands and print its result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("windows", "quantize"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="original", choices=("original", "dithered"))
    parser.add_argument("--scheme", default="int4")
    parser.add_argument("--calibration", default="mix", choices=CALIBRATIONS)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=4096, help="measured on each text")
    parser.add_argument("--padded", action="store_true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    result = write_windows(options.folder) if options.what == "windows" else quantize(options)
    print(json.dumps(result, indent=2, allow_nan=False), flush=True)


def write_windows(folder: Path) -> dict[str, Any]:
    """Write the model and the windows of token ids, [W, 512] int32, into a folder."""
    from builders.checkpoint import open_checkpoint
    from builders.quantization.calibration.text import calibration_windows
    from builders.tokenizer import tokenizer_of
    from builders.validation.text import read_text, windows_of
    from devtools import real_model
    from devtools.benchmark_texts import ensure_texts
    from devtools.dithered import ensure_dithered
    from devtools.padded import write_padded
    from targets.calibration import CalibrationSettings

    model = real_model.ensure()
    checkpoint = open_checkpoint(model.checkpoint)
    tokenizer = tokenizer_of(checkpoint)
    for name, source in (("original", model.checkpoint), ("dithered", ensure_dithered())):
        shutil.copytree(source, folder / name, dirs_exist_ok=True)
        write_padded(source, folder / f"{name}-padded")
    texts = {"openwebtext": model.openwebtext, **ensure_texts()}
    windows = {name: windows_of(tokenizer, read_text(path), count=8, length=512) for name, path in texts.items()}
    windows["mix"] = calibration_windows(checkpoint, CalibrationSettings(), "full")
    windows["wikipedia"] = windows_of(tokenizer, read_text(model.wikipedia), count=96, length=512)
    np.savez(folder / "windows.npz", **{name: ids.astype(np.int32) for name, ids in windows.items()})
    return {name: list(ids.shape) for name, ids in windows.items()}


def quantize(options: argparse.Namespace) -> dict[str, Any]:
    """Quantize, and return the KL on each text with its standard error, the seconds and the peak memory."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_grad_enabled(False)
    windows = np.load(options.folder / "windows.npz")
    checkpoint = options.folder / (f"{options.model}-padded" if options.padded else options.model)
    texts = {name: windows[name][: options.tokens // 512] for name in windows if name not in CALIBRATIONS}
    reference = _opened(checkpoint, options.device)
    expected = {name: _logits(reference, ids) for name, ids in texts.items()}
    started = time.monotonic()
    if options.scheme == "nearest":
        found, size = _nearest(reference), None
    else:
        del reference
        found, size = _by_auto_round(checkpoint, windows[options.calibration][: options.samples], options)
    seconds = time.monotonic() - started
    kl = {name: _kl(expected[name], _logits(found, ids), options.device) for name, ids in texts.items()}
    named = ("model", "scheme", "calibration", "iterations", "samples", "padded", "device")
    peak = torch.cuda.max_memory_allocated() if options.device == "cuda" else None
    return {
        **{name: getattr(options, name) for name in named},
        "seconds": round(seconds, 1),
        "gpu_peak_bytes": peak,
        "weight_bytes": size,
        "kl": kl,
    }


def _opened(checkpoint: Path, device: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).to(device).eval()


def _logits(model: Any, windows: np.ndarray) -> Any:
    import torch

    ids = torch.as_tensor(windows.astype(np.int64), device=model.device)
    return [model(input_ids=row[None]).logits[0].float().cpu() for row in ids]


def _kl(reference: Any, found: Any, device: str) -> list[float]:
    """Return the mean KL and its standard error, from the means of blocks of 64 tokens."""
    windows = []
    for expected, logits in zip(reference, found, strict=True):
        log_p, log_q = (part.to(device).double().log_softmax(-1) for part in (expected, logits))
        windows.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0).cpu().numpy())
    rows = np.concatenate(windows)
    means = rows.reshape(-1, 64).mean(1)
    return [round(float(rows.mean()), 5), round(float(means.std(ddof=1) / math.sqrt(len(means))), 5)]


def _nearest(model: Any) -> Any:
    for name, module in model.named_modules():
        if hasattr(module, "weight") and module.weight.ndim == 2 and "embed" not in name and name != "lm_head":
            module.weight.data = _rounded(module.weight.data, bits=4)
    return _with_rounded_head(model)


def _with_rounded_head(model: Any) -> Any:
    """Round the head, which may share its weights with the embedding: that stays as it is."""
    import torch

    model.lm_head.weight = torch.nn.Parameter(_rounded(model.lm_head.weight.data.float(), bits=8))
    return model


def _rounded(weight: Any, bits: int) -> Any:
    """Round to nearest in blocks of 32 along the columns, between each block's least and largest weight and zero."""
    blocks = weight.reshape(-1, BLOCK)
    low, high = blocks.amin(1, keepdim=True).clamp(max=0), blocks.amax(1, keepdim=True).clamp(min=0)
    step = ((high - low) / (2**bits - 1)).half().float().clamp(min=1e-8)
    zero = (-low / step).round().clamp(0, 2**bits - 1)
    codes = (blocks / step + zero).round().clamp(0, 2**bits - 1)
    return ((codes - zero) * step).reshape(weight.shape)


def _by_auto_round(checkpoint: Path, windows: np.ndarray, options: argparse.Namespace) -> tuple[Any, int | None]:
    """Return a model whose weights are the dequantized ones, and the bytes of AutoRound's own file, if it wrote one."""
    import torch
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rows = [torch.as_tensor(row.astype(np.int64))[None] for row in windows]
    settings: dict[str, Any] = {
        "dataset": rows,
        "iters": options.iterations,
        "nsamples": len(rows),
        "seqlen": windows.shape[1],
        "device_map": options.device if options.device == "cpu" else 0,
        "enable_torch_compile": False,
    }
    with torch.enable_grad():
        if options.scheme == "int4":
            scheme = {"bits": 4, "group_size": BLOCK, "sym": False, "data_type": "int", "act_bits": 16}
            found, _ = AutoRound(model, tokenizer, scheme=scheme, **settings).quantize()
            return _with_rounded_head(found.to(options.device).float().eval()), None
        out = options.folder / f"{checkpoint.name}-{options.scheme.partition(':')[2]}"
        shutil.rmtree(out, ignore_errors=True)
        AutoRound(model, tokenizer, scheme=options.scheme, **settings).quantize_and_save(out, format=options.scheme)
    file = next(out.rglob("*.gguf"))
    return _from_gguf(file, checkpoint, options.device), file.stat().st_size


def _from_gguf(file: Path, checkpoint: Path, device: str) -> Any:
    """Return the checkpoint's model with the weights of a GGUF of it."""
    import gguf
    import torch

    kinds = {"attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj", "ffn_up": "mlp.gate_up_proj"}
    kinds |= {"ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    weights = {}
    for tensor in gguf.GGUFReader(str(file)).tensors:
        stem = tensor.name.removesuffix(".weight")
        if stem.startswith("blk."):
            _, layer, kind = stem.split(".")
            stem = f"model.layers.{layer}.{kinds[kind]}"
        elif stem in names:
            stem = names[stem]
        else:
            continue  # factors of longrope, which this model has not
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        weights[f"{stem}.weight"] = torch.from_numpy(values.copy())
    model = _opened(checkpoint, device)
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    model.load_state_dict(weights, strict=True)
    return model


if __name__ == "__main__":
    main()
