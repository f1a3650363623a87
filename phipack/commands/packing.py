"""`split` and `join`: bundles in parts, for packers that limit what one package may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from phipack.options import FOLDER, State, out_option, pass_state, replace_option
from phipack.tables import table
from targets.errors import PhipackError
from targets.formatting import size


class ByteCount(click.ParamType[int]):
    """A number of bytes, with a unit or without: `1500000000`, `1.5GB`, `512 MiB`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of bytes."""
        from phipack.api.arguments import parse_size

        try:
            return parse_size(value)
        except PhipackError as error:
            self.fail(f"{error.problem}; {error.fix}", param, ctx)


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option(
    "--max-part-bytes",
    required=True,
    type=ByteCount(),
    metavar="SIZE",
    help="The most that a part may hold: 1.5GB, 512MiB, or a number of bytes.",
)
@out_option
@replace_option
@pass_state
def split(state: State, bundle: Path, max_part_bytes: int, out: Path, replace: bool) -> None:
    """Cut a bundle into parts that a packer can ship one by one, such as Play's asset packs.

    The parts are folders, part-1 and so on. The first holds the small files and parts.json, which describes how the
    parts are joined: phipack join does it, and an app may do it when it starts.
    """
    from phipack.api.delivery import split as split_bundle
    from phipack.json_form.delivery import split_form

    parts = split_bundle(bundle, out, max_part_bytes, replace=replace)
    rows = [(part.path.name, size(part.bytes)) for part in parts]
    state.output.result(split_form(out, parts).data(), table(("part", "size"), rows))


@click.command()
@click.argument("parts", type=FOLDER)
@out_option
@click.option("--digest", metavar="SHA256", help="Accept only the bundle of this digest (sha256:…).")
@replace_option
@pass_state
def join(state: State, parts: Path, out: Path, digest: str | None, replace: bool) -> None:
    """Join a bundle's parts (a folder with part-1 and so on), and verify every byte."""
    from phipack.api.delivery import join as join_parts
    from phipack.json_form.making import bundle_form

    bundle = join_parts(parts, out, digest=digest, replace=replace)
    manifest = bundle.manifest
    state.output.result(
        bundle_form(bundle).data(),
        f"{out}: {manifest.recipe.name}, {size(manifest.total_bytes)}, verified\n{bundle.digest}",
    )
