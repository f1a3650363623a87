"""`split` and `join`: bundles in parts, for packers that limit what one package may hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from phipack.options import FOLDER, State, out_option, pass_state, replace_option
from phipack.output import size, table

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


class ByteCount(click.ParamType[int]):
    """A number of bytes, with a unit or without: `1500000000`, `1.5GB`, `512 MiB`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Give the number of bytes."""
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([A-Za-z]*)", str(value).strip())
        factor = None if found is None else _UNITS.get(found[2].upper())
        if found is None or factor is None:
            self.fail(f"{value!r} is no size; write 1500000000, 1.5GB or 512MiB", param, ctx)
        count = int(float(found[1]) * factor)
        if count < 1:
            self.fail(f"{value!r} is less than a byte", param, ctx)
        return count


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option(
    "--max-part-bytes",
    required=True,
    type=ByteCount(),
    metavar="SIZE",
    help="What a part may hold at most: 1.5GB, 512MiB, or a number of bytes.",
)
@out_option
@replace_option
@pass_state
def split(state: State, bundle: Path, max_part_bytes: int, out: Path, replace: bool) -> None:
    """Cut a bundle into parts that a packer can ship each, such as Play's asset packs.

    The parts are folders, part-1 and so on. Small files are whole in the first, beside parts.json, which says how the
    others are joined: phipack join does it, an app may do it as it starts.
    """
    from registry.bundle.folder import open_bundle
    from registry.bundle.parts import split as split_bundle

    parts = split_bundle(open_bundle(bundle), out, max_part_bytes, replace=replace)
    state.output.result(
        {"path": str(out), "parts": [{"path": str(part.path), "bytes": part.bytes} for part in parts]},
        table(("part", "size"), [(part.path.name, size(part.bytes)) for part in parts]),
    )


@click.command()
@click.argument("parts", type=FOLDER)
@out_option
@click.option("--digest", metavar="SHA256", help="Accept only the bundle of this digest (sha256:…).")
@replace_option
@pass_state
def join(state: State, parts: Path, out: Path, digest: str | None, replace: bool) -> None:
    """Join a bundle's parts (a folder with part-1 and so on) again, every byte verified."""
    from registry.bundle.parts import join as join_parts

    bundle = join_parts(parts, out, digest=digest, replace=replace)
    total = bundle.manifest.total_bytes
    state.output.result(
        {"path": str(out), "digest": bundle.digest, "bytes": total},
        f"{out}: {bundle.manifest.recipe.name}, {size(total)}, verified\n{bundle.digest}",
    )
