"""`fetch` and `generate`: what an app team does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from phipack import completion
from phipack.options import FOLDER, State, catalog_options, out_option, pass_state, replace_option
from phipack.output import size
from targets.progress import Event, Notice

if TYPE_CHECKING:
    from registry.fetch import Fetched
    from registry.ledger.versions import CellVersion
    from registry.transfer.bundle_download import DownloadOptions
    from targets.references import Reference


@click.command()
@click.argument("source", metavar="REFERENCE-OR-PATH-OR-URL", shell_complete=completion.references_or_paths)
@out_option
@click.option("--digest", metavar="SHA256", help="Accept only the bundle of this digest (sha256:…).")
@replace_option
@click.option(
    "--reuse",
    type=FOLDER,
    multiple=True,
    metavar="DIR",
    help="A bundle on this machine: what it has is copied, not downloaded. May be repeated; what --replace replaces "
    "is one always.",
)
@catalog_options
@pass_state
def fetch(
    state: State,
    /,
    source: str,
    out: Path,
    digest: str | None,
    replace: bool,
    reuse: tuple[Path, ...],
    **asked: Any,
) -> None:
    """Put a verified bundle in a folder.

    SOURCE is MODEL:1.0.0@CELL, MODEL:production@CELL, MODEL:^1.0@CELL, a bundle's folder, the http(s) URL of one, or
    the URL of a published catalog: then --of says what, or --device who asks. Every byte is verified before anything is
    put in place. A download that broke off is continued by the same command.
    """
    from registry.fetch import fetch as fetch_bundle
    from registry.fetch import is_path
    from registry.ledger.reader import open_reader, resolve_in
    from registry.store.uris import open_store
    from registry.transfer.bundle_download import DownloadOptions

    options = DownloadOptions(digest, replace, reuse)
    if any(value is not None for value in asked.values()):
        if "://" not in source:
            raise click.UsageError(f"{source!r} is no URL of a catalog; {_given(asked)} is for one")
        fetched = _from_catalog(state, source, out, asked, options)
    else:
        # A path or URL needs no registry: the project file that says where it is may be wrong.
        by_reference = "://" not in source and not is_path(source)
        blobs = open_store(state.store) if by_reference else None

        def resolver(reference: Reference) -> list[CellVersion]:
            assert blobs is not None
            return resolve_in(open_reader(state.tracking_uri, blobs), reference)

        fetched = fetch_bundle(
            source,
            out,
            options,
            resolver=resolver,
            store=blobs,
            on_progress=state.output.on_progress,
        )
    bundle, statistics = fetched.bundle, fetched.statistics
    manifest = bundle.manifest
    parts = [f"{size(manifest.total_bytes)}, verified"]
    for count, what in (
        (statistics.downloaded_bytes, "downloaded"),
        (statistics.reused_bytes, "copied from bundles on this machine"),
        (statistics.delta_bytes, "rebuilt from one of them by a delta"),
        (statistics.resumed_bytes, "kept from an earlier try"),
    ):
        if count:
            parts.append(f"{size(count)} {what}")
    lines = [f"{out}: {manifest.recipe.name}, {', '.join(parts)}", bundle.digest]
    if fetched.reasons:
        lines = [f"{fetched.reference}: {'; '.join(fetched.reasons)}", *lines]
    state.output.result(
        {
            "path": str(out),
            "digest": bundle.digest,
            "recipe": manifest.recipe.name,
            "bytes": manifest.total_bytes,
            "reference": fetched.reference,
            "reasons": list(fetched.reasons),
            **dataclasses.asdict(statistics),
        },
        "\n".join(lines),
    )


def _from_catalog(state: State, url: str, out: Path, asked: Mapping[str, Any], options: DownloadOptions) -> Fetched:
    from registry.catalog.choice import Query
    from registry.catalog.client import CatalogTrust
    from registry.fetch import fetch_from_catalog
    from targets.references import Reference
    from targets.selection import Device

    os_name, _, os_version = (asked["os"] or "").partition(" ")
    query = Query(
        reference=None if asked["of"] is None else Reference.parse(asked["of"]),
        device=Device(asked["device"], asked["soc"], asked["ram_bytes"], os_name or None, os_version or None),
        format=asked["format"],
        install_id=asked["install_id"],
    )
    trust, report = CatalogTrust(asked["root"]), state.output.on_progress
    return fetch_from_catalog(url, out, query, options, trust=trust, on_progress=report)


def _given(asked: Mapping[str, Any]) -> str:
    return next("--" + name.replace("_", "-") for name, value in asked.items() if value is not None)


@click.command()
@click.argument("bundle", type=FOLDER)
@click.argument("prompt")
@click.option("--max-tokens", default=128, show_default=True, type=click.IntRange(min=1), help="Longest answer.")
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the chat template.")
@pass_state
def generate(state: State, bundle: Path, prompt: str, max_tokens: int, raw: bool) -> None:
    """Answer a prompt with a bundle: its own chat template, tokenizer and stop ids, the likeliest token each time."""
    from builders.runtime.generation import generate as generate_text
    from registry.bundle.folder import open_bundle

    pieces: list[str] = []

    def on_progress(event: Event) -> None:
        if isinstance(event, Notice):
            state.output.note(f"\n{event.text}" if pieces else event.text)  # not in the middle of the answer's own line

    opened = open_bundle(bundle)
    for piece in generate_text(
        opened, prompt, max_new_tokens=max_tokens, use_template=not raw, on_progress=on_progress
    ):
        pieces.append(piece)
        state.output.stream(piece)  # the answer appears as it is made
    state.output.stream("\n")
    state.output.result({"text": "".join(pieces)}, "")
