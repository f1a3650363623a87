"""llama.cpp's importance matrices: written for its quantizer, and read where llama-imatrix has made one.

A GGUF file with two float32 tensors for each matrix of the model, by llama.cpp's names:

    NAME.in_sum2   [columns]   the sum over tokens of the squares of what the matrix is multiplied with
    NAME.counts    [1]         how many tokens

and the keys general.type ("imatrix"), imatrix.datasets, imatrix.chunk_count and imatrix.chunk_size. Source:
tools/imatrix/imatrix.cpp in llama.cpp. What its older releases wrote is read as well: `imatrix_file.py`.

llama-imatrix writes the head's entry only with `--process-output`, and for a tied head never: without it the head is
not calibrated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builders.quantization.calibration.imatrix_file import COUNTS, SUMS, read_means
from builders.quantization.calibration.statistics import have_finite_sums
from registry.files.output_file import write_output_file
from registry.files.staging import disk_errors
from registry.files.temporary import temporary_folder
from targets.architecture import Architecture
from targets.errors import CalibrationError, UnsupportedModelError
from targets.gguf_names import gguf_name
from targets.layouts import sources_of

Floats = NDArray[np.float32]

_SAME = 1e-3  # of the largest square: matrices with the same input have the same squares
_SHOWN = 3  # names in a message
_OTHER_MODEL = "use the importance matrix that llama-imatrix made of this model's own GGUF, or a calibration text"


def write_imatrix(
    path: Path,
    squares: Mapping[str, Floats],
    architecture: Architecture,
    *,
    token_count: int,
    window_length: int,
    datasets: Sequence[str],
) -> None:
    """Write an importance matrix that llama-quantize reads.

    Args:
        path: the file, replaced if it exists.
        squares: the mean square of each column's input, float32 [columns], by a matrix's canonical name.
        architecture: of the model, whose GGUF names the tensors get.
        token_count: how many tokens the means are taken over.
        window_length: tokens that were read together.
        datasets: what was read: names for people.

    Raises:
        UnsupportedModelError: llama.cpp can't run the architecture.
        BuildError: the file can't be written.
    """
    import gguf

    # llama-imatrix names no architecture; gguf's own writer always does.
    nameless = type("Writer", (gguf.GGUFWriter,), {"add_architecture": lambda _: None})
    with temporary_folder("phipack-imatrix") as folder, disk_errors(folder):
        whole = folder / "imatrix.gguf"
        writer = nameless(whole, architecture.family)
        writer.add_type(gguf.GGUFType.IMATRIX)
        writer.add_array(gguf.Keys.IMatrix.DATASETS, list(datasets))
        writer.add_uint32(gguf.Keys.IMatrix.CHUNK_COUNT, max(1, token_count // window_length))
        writer.add_uint32(gguf.Keys.IMatrix.CHUNK_SIZE, window_length)
        for name, canonical in sorted(_names(architecture)):
            if canonical in squares:
                sums = squares[canonical].astype(np.float32) * np.float32(token_count)
                writer.add_tensor(name + SUMS, sums)
                writer.add_tensor(name + COUNTS, np.array([token_count], dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_output_file(path, whole.read_bytes())


def require_names(architecture: Architecture) -> None:
    """Raise `UnsupportedModelError` where llama.cpp has no names for the matrices, as `write_imatrix` would."""
    next(_names(architecture), None)


def require_finite(squares: Mapping[str, Floats]) -> None:
    """Raise `CalibrationError` where a mean square is infinite, NaN or so large that `read_imatrix` would refuse it."""
    for canonical, means in squares.items():
        if not have_finite_sums(means):
            raise CalibrationError(
                f"what {canonical} is multiplied with is infinite, undefined or too large to square",
                fix="check the training run, or download the checkpoint again",
            )


def read_imatrix(path: Path, architecture: Architecture) -> dict[str, Floats]:
    """Read an importance matrix. Returns the mean square of each column's input by a matrix's canonical name.

    Raises:
        CalibrationError: the file is damaged or is no importance matrix; or it is another model's: a matrix of this one
            is missing or has another width, or one is there that this model does not have.
        UnsupportedModelError: llama.cpp can't run the architecture.
    """
    found = read_means(path)
    shapes, head = architecture.tensor_shapes(), architecture.head_tensor
    names = dict(_names(architecture))
    names.setdefault("output.weight", head)  # what a tied head's entry would be called
    _check_names(path, set(found), {name for name, canonical in names.items() if canonical != head}, set(names))
    squares: dict[str, Floats] = {}
    for name, means in found.items():
        canonical = names[name]
        columns = shapes[canonical][1]
        if len(means) != columns:
            raise CalibrationError(
                f"{path}: {name} has {len(means)} values; this model's has rows of {columns} elements", fix=_OTHER_MODEL
            )
        first = squares.setdefault(canonical, means)
        if not np.allclose(first, means, rtol=_SAME, atol=_SAME * float(first.max())):
            raise CalibrationError(
                f"{path}: {name} differs from another matrix that is multiplied with the same values", fix=_OTHER_MODEL
            )
    return squares


def _names(architecture: Architecture) -> Iterator[tuple[str, str]]:
    """Yield llama.cpp's name and the canonical one of each matrix that something is multiplied with.

    Several of llama.cpp's have one canonical name where the family's matrices are separate.
    """
    if architecture.family == "phi3small":
        raise UnsupportedModelError(
            "llama.cpp has no graph for Phi-3-small, so there is no importance matrix of it",
            fix="calibrate with a text",
        )
    for canonical, shape in architecture.tensor_shapes().items():
        is_multiplied = canonical.startswith("model.layers.") or canonical == architecture.head_tensor
        if len(shape) == 2 and is_multiplied:
            for stored, _ in sources_of(architecture, canonical, shape).parts:
                yield gguf_name(stored), canonical


def _check_names(path: Path, found: set[str], needed: set[str], known: set[str]) -> None:
    for names, problem in ((needed - found, "is missing"), (found - known, "is not in this model")):
        if names:
            some = ", ".join(sorted(names)[:_SHOWN])
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise CalibrationError(f"{path} is another model's: {some}{more} {problem}", fix=_OTHER_MODEL)
