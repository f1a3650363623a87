"""What the runtimes' own programs print, and the base file that llama-perplexity reads."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.devices import genai_bench, llama_bench
from builders.devices.kl_base import compared, write_base
from targets.errors import MeasurementError

# By the format of tools/llama-bench/llama-bench.cpp, with a few of its fields.
ROW = """  {{
    "build_commit": "b1f3a6e", "build_number": 6500, "cpu_info": "", "gpu_info": "", "backends": "CPU",
    "model_filename": "m.gguf", "model_size": 2393231072, "n_batch": 2048, "n_threads": 4, "cpu_strict": false,
    "n_prompt": {prompt}, "n_gen": {decode}, "n_depth": 0, "test_time": "2026-11-26T07:30:00Z",
    "avg_ns": {ns}, "stddev_ns": 0, "avg_ts": 1.5, "stddev_ts": 0.000000,
    "samples_ns": [ {ns} ],
    "samples_ts": [ 1.5 ]
  }}"""
BENCH = (
    f"[\n{ROW.format(prompt=512, decode=0, ns=10_240_000_000)},\n{ROW.format(prompt=0, decode=128, ns=8 * 10**9)}\n]\n"
)

# What llama.cpp's own kl_divergence() printed (llama-cpp-python 0.3.36's copy) for tiny bundles: of 510 positions, and
# of 29, where it prints no statistics.
LONG = """0.00 minutes

chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            Same top p
   1     501.8573 ±   32.0906       0.02561 ±    0.01883       0.04513 ±    0.00125     0.115 ±  0.012 %    54.9 ±  3.1 %
   2     477.1842 ±   21.7793       0.02188 ±    0.01226       0.04240 ±    0.00086     0.120 ±  0.009 %    56.6 ±  2.1 %

====== Perplexity statistics ======
Mean PPL(Q)                   : 477.184225 ±  21.779324

====== KL divergence statistics ======
Mean    KLD:   0.042399 ±   0.000863
Maximum KLD:   0.182216
"""  # noqa: E501 - as it is printed
SHORT = """chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            Same top p
   1     633.8531 ±  123.8908       0.07174 ±    0.08071       0.06834 ±    0.00617     0.213 ±  0.077 %    51.7 ±  9.4 %
"""  # noqa: E501 - as it is printed

# By benchmark/c/main.cpp of onnxruntime-genai (WritePerTokenStats).
GENAI = """Batch size: 1, prompt tokens: 512, tokens to generate: 128
Prompt processing (time to first token):
\tavg (us):       4.096e+06
\tavg (tokens/s): 125
\tp50 (us):       4.096e+06
\tstddev (us):    0
\tn:              1 * 512 token(s)
Token generation:
\tavg (us):       80000
\tavg (tokens/s): 12.5
\tp50 (us):       79000.5
\tstddev (us):    120.5
\tn:              127 * 1 token(s)
Token sampling:
\tavg (us):       31.5
\tavg (tokens/s): 31746
\tp50 (us):       31.5
\tstddev (us):    0
\tn:              1 * 1 token(s)
E2E generation (entire generation loop):
\tavg (ms):       14256
\tp50 (ms):       14256
\tstddev (ms):    0
\tn:              1
Peak working set size: 2684354560 bytes (2.50 GB)
"""


@pytest.mark.parametrize("before", ["", "warning: debug build, performance may be affected\n"])
def test_llama_bench(before: str) -> None:
    found = llama_bench.parse_bench(before + BENCH)
    assert (found.prefill_tokens_per_second, found.decode_tokens_per_second) == (50.0, 16.0)
    assert found.prompt_seconds == 10.24
    assert (found.version, found.backend) == ("b6500 (b1f3a6e)", "CPU")
    assert (found.threads, found.batch_size) == (4, 2048)


@pytest.mark.parametrize(
    "output",
    ["", "[\n", "main: error: failed to load model", "[]", f"[{ROW.format(prompt=512, decode=0, ns=5)}]"]
    + [BENCH.replace('"samples_ns": [ 8000000000 ]', f'"samples_ns": [{ns}]') for ns in ("", "0", "-1", '"x"', "NaN")],
)
def test_what_is_not_llama_benchs_json_is_refused(output: str) -> None:
    with pytest.raises(MeasurementError, match="llama-bench did not print its JSON") as caught:
        llama_bench.parse_bench(output)
    assert "docs/devices.md" in caught.value.fix


def test_the_mean_divergence_of_llama_perplexity() -> None:
    assert llama_bench.parse_perplexity(LONG) == 0.042399
    assert llama_bench.parse_perplexity(SHORT) == 0.06834
    assert llama_bench.parse_perplexity("Mean    KLD:  -0.000000 ±   0.000000\n") == 0
    for broken in ("nan", "inf"):
        with pytest.raises(MeasurementError, match=f"the KL divergence on the device is {broken}"):
            llama_bench.parse_perplexity(f"Mean    KLD:   {broken} ±   {broken}\n")
    with pytest.raises(MeasurementError, match="printed no KL divergence: failed to open x"):
        llama_bench.parse_perplexity("failed to open x\n")


def test_model_benchmark() -> None:
    found = genai_bench.parse_bench(GENAI)
    assert found.prefill_tokens_per_second == pytest.approx(125)
    assert found.decode_tokens_per_second == pytest.approx(12.5)
    assert (found.prompt_seconds, found.prompt_tokens, found.decode_tokens) == (4.096, 512, 127)
    assert found.peak_bytes == 2684354560
    for wrong in ("", "Exception: no model", GENAI.partition("Token generation")[0]):
        with pytest.raises(MeasurementError, match="model_benchmark did not print its statistics"):
            genai_bench.parse_bench(wrong)


@given(st.integers(4, 12), st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_a_base_file_has_the_log_probabilities_of_the_second_half(length: int, vocabulary: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocabulary, (2, length))
    logits = rng.normal(0, 6, (2, length, vocabulary)).astype(np.float32)
    logits[:, :, 0] = -np.inf  # a hidden id
    path = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp", f"phipack-base-{seed}-{length}-{vocabulary}")
    try:
        write_base(path, tokens, vocabulary, iter(logits))
        content = path.read_bytes()
    finally:
        path.unlink()
    assert len(content) == 20 + 2 * (4 * length + compared(length) * (8 + 2 * (vocabulary + vocabulary % 2)))
    assert struct.unpack_from("<8s3i", content) == (b"_logits_", length, vocabulary, 2)
    place = 20 + 8 * length
    assert np.array_equal(np.frombuffer(content, "<i4", 2 * length, 20).reshape(2, length), tokens)
    for each in logits:
        rows = each[length // 2 : length - 1].astype(np.float64)
        assert len(rows) == compared(length)
        for row in rows:
            scale, least = struct.unpack_from("<ff", content, place)
            codes = np.frombuffer(content, "<u2", vocabulary, place + 8)
            expected = row - row.max() - np.log(np.exp(row - row.max()).sum())
            floor = expected.max() - 16
            assert least + scale * codes == pytest.approx(np.maximum(expected, floor), abs=2e-4)
            place += 8 + 2 * (vocabulary + vocabulary % 2)
