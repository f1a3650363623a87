"""The verb: one checkpoint to a plain ONNX folder, by optimum, in its own environment.

The result is optimum's plain graph in a folder, not a bundle: the whole model is held in memory, nothing is quantized,
and it can't be validated or registered, since the float32 reference knows the same architectures as the converters.
For those architectures, it is the graph that phipack's own is tested against.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from builders.checkpoint.weight_files import find_weights
from builders.optimum_export.environment import optimum_environment, python_arguments, quiet_environment
from builders.optimum_export.translation import link_for_transformers_4
from builders.optimum_export.verification import verify_export
from registry.files.staging import disk_errors, staged_folder
from registry.files.temporary import temporary_folder
from targets.errors import BuildError, UnsupportedModelError
from targets.other_process import not_started
from targets.progress import Progress, Step, silent

_SCRIPT = Path(__file__).with_name("in_environment.py")
_STEPS = 2
# Saved by optimum's transformers 4 in its own form: the checkpoint's own files take their place.
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja"),
)


def export(checkpoint: Path, out: Path, *, replace: bool = False, on_progress: Progress = silent) -> list[str]:
    """Export a checkpoint's folder to `out`, and return the names of the files.

    The graph has been run and compared with transformers' own model of the checkpoint when this returns.

    Raises:
        CheckpointError: no config or safetensors (pickled weights are refused: reading them may run code).
        UnsupportedModelError: optimum does not know the architecture either, or exports it wrongly.
        SetupError: the environment that optimum runs in can't be created.
        BuildError: `out` exists or can't be written, or the export was killed. Nothing is left behind.
    """
    with temporary_folder("phipack-export") as made:
        linked = made / "checkpoint"
        linked.mkdir()
        link_for_transformers_4(checkpoint, linked)
        find_weights(checkpoint)
        with staged_folder(out, replace=replace) as folder:
            python = optimum_environment(on_progress=on_progress)
            on_progress(Step("export", 0, _STEPS))
            _run(python, checkpoint, linked, folder)
            _put_tokenizer(checkpoint, folder)
            on_progress(Step("export", 1, _STEPS))
            verify_export(checkpoint, folder, on_progress)
            on_progress(Step("export", _STEPS, _STEPS))
            return sorted(path.name for path in folder.iterdir())


def _run(python: Path, checkpoint: Path, linked: Path, folder: Path) -> None:
    """Run optimum on the linked checkpoint."""
    report = linked.with_name("report.json")
    with disk_errors(folder), linked.with_name("output").open("wb") as output:
        try:
            done = subprocess.run(  # noqa: S603 - our own script in our own environment
                [*python_arguments(python), str(_SCRIPT), str(linked), str(folder), str(report)],
                env=quiet_environment(),
                cwd=linked.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except OSError as error:  # it is no fault of the disk
            problem, fix = not_started("optimum's process", error)
            raise BuildError(problem, fix=fix) from error
    if not report.is_file():
        printed = linked.with_name("output").read_text("utf-8", errors="replace").strip().splitlines()
        ended = f"was ended by signal {-done.returncode}" if done.returncode < 0 else f"ended with {done.returncode}"
        raise BuildError(
            f"optimum {ended} while it exported {checkpoint}{': ' + printed[-1] if printed else ''}",
            fix="the whole model is held in memory, in float32 and more than once: try a machine with more memory",
        )
    raised = json.loads(report.read_text("utf-8"))
    if not raised:
        return
    lines = str(raised["message"]).replace(str(linked), str(checkpoint)).strip().splitlines()
    reason = lines[0] if lines else raised["type"]
    if "No space left on device" in reason:
        raise BuildError(f"no space left while writing {folder.parent}", fix="free space, or name another disk")
    raise UnsupportedModelError(
        f"{checkpoint}: optimum can't export it: {reason}",
        fix="for Phi-3, Phi-3-small and Llama use phipack build; for others, ask optimum to support them",
    )


def _put_tokenizer(checkpoint: Path, folder: Path) -> None:
    """Put the checkpoint's own tokenizer files in the place of those that transformers 4 saved."""
    with disk_errors(folder):
        for name in _TOKENIZER_FILES:
            (folder / name).unlink(missing_ok=True)
            if (checkpoint / name).is_file():
                shutil.copyfile(checkpoint / name, folder / name)
