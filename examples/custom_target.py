"""Describe a device of your own, see what fits on it, and build for it.

    python examples/custom_target.py CHECKPOINT FOLDER

CHECKPOINT is a Hugging Face folder; the target file and the bundle are put in FOLDER. Needs phipack[build].
"""

from __future__ import annotations

import sys
from pathlib import Path

import phipack

# Every figure says where it comes from; `confirmed = false` marks what nobody published.
KIOSK = """\
name = "kiosk"
title = "our kiosk's board"
soc = "Snapdragon 8 Gen 2"
os = "Android"
minimum_os = "14"
ram = { value = 8_589_934_592, source = "data sheet", confirmed = true }
app_memory = { value = 4_294_967_296, source = "measured by us", confirmed = true }
memory_bandwidth = { value = 67_000_000_000, source = "data sheet", confirmed = true }

[decode_efficiency]                   # share of the bandwidth, for each format that has a runtime on it
gguf = { value = 0.5, source = "an estimate", confirmed = false }

[gates]                               # what every bundle for it must pass
predicted_decode_tokens_per_second = { at_least = 5 }
"""


def main(checkpoint: str, folder: str) -> int:
    """Fit and build. Return the exit code."""
    target_file = Path(folder) / "kiosk.toml"
    target_file.parent.mkdir(parents=True, exist_ok=True)
    target_file.write_text(KIOSK, "utf-8")
    try:
        report = phipack.fit(Path(checkpoint), target_file)
        for one in report.recipes:
            print(f"{one.fit.recipe:<12} {f'{one.bundle_bytes:,} bytes' if one.bundle_bytes else one.fit.reason}")
        best = next(one.fit.recipe for one in report.recipes if one.fit.fits)
        bundle = phipack.build(checkpoint, best, Path(folder) / best, target=target_file)
        print(
            f"{bundle.path}: a context of {bundle.manifest.model.context_length} tokens fits on {report.target.title}"
        )
    except phipack.PhipackError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) >= 3 else __doc__)
