"""`fetch` and `generate`: what an app team does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from phipack import completion
from phipack.commands.opening import open_registry
from phipack.options import FOLDER, State, catalog_options, out_option, pass_state, replace_option
from targets.formatting import size
from targets.progress import Event, Notice

if TYPE_CHECKING:
    from registry.fetch import Fetched


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
    help="A bundle on this machine: what it has is copied, not downloaded (repeatable). A bundle that --replace "
    "replaces is always one.",
)
@click.option(
    "--runtime",
    multiple=True,
    metavar="NAME=VERSION",
    help="A runtime that the app ships, such as onnxruntime=1.22.0 or llama.cpp=b4792 (repeatable; name all of them). "
    "A bundle that they can't run is refused before it is downloaded; a catalog gives the newest one that they can.",
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
    runtime: tuple[str, ...],
    **asked: Any,
) -> None:
    """Put a verified bundle in a folder.

    SOURCE is MODEL:1.0.0@CELL, MODEL:production@CELL, MODEL:^1.0@CELL, a bundle's folder, the http(s) URL of one, or
    the URL of a published catalog: then --of names what to fetch, or --device the device to choose for. Every byte is
    verified before anything is put in place. The same command resumes a download that was interrupted.
    """
    from phipack.api.delivery import fetch as fetch_bundle
    from phipack.api.delivery import read_runtimes
    from phipack.json_form.delivery import fetch_form
    from registry.fetch import is_path

    options: dict[str, Any] = {
        "digest": digest,
        "replace": replace,
        "reuse": reuse,
        "runtimes": read_runtimes(runtime),
        "on_progress": state.output.on_progress,
    }
    if any(value is not None for value in asked.values()):
        if "://" not in source:
            raise click.UsageError(f"{source!r} is not the URL of a catalog, which {_given(asked)} needs")
        fetched = _from_catalog(source, out, asked, options)
    elif "://" in source or is_path(source):  # which need no registry: the project file may be wrong
        fetched = fetch_bundle(source, out, **options)
    else:
        fetched = open_registry(state).fetch(source, out, **options)
    state.output.result(fetch_form(fetched).data(), _text(fetched))


def _from_catalog(url: str, out: Path, asked: Mapping[str, Any], options: Mapping[str, Any]) -> Fetched:
    from phipack.api.delivery import fetch_from_catalog
    from targets.selection import Device

    os_name, _, os_version = (asked["os"] or "").partition(" ")
    return fetch_from_catalog(
        url,
        out,
        asked["of"],
        device=Device(asked["device"], asked["soc"], asked["ram_bytes"], os_name or None, os_version or None),
        format=asked["format"],
        root=asked["root"],
        install_id=asked["install_id"],
        **options,
    )


def _text(fetched: Fetched) -> str:
    bundle, statistics = fetched.bundle, fetched.statistics
    parts = [f"{size(bundle.manifest.total_bytes)}, verified"]
    for count, what in (
        (statistics.downloaded_bytes, "downloaded"),
        (statistics.reused_bytes, "copied from bundles on this machine"),
        (statistics.delta_bytes, "rebuilt from one of them by a delta"),
        (statistics.resumed_bytes, "kept from an earlier try"),
    ):
        if count:
            parts.append(f"{size(count)} {what}")
    lines = [f"{bundle.path}: {bundle.manifest.recipe.name}, {', '.join(parts)}", bundle.digest]
    if fetched.reasons:
        lines = [f"{fetched.reference}: {'; '.join(fetched.reasons)}", *lines]
    return "\n".join(lines)


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
    from phipack.api.validation import generate as generate_text
    from phipack.json_form.delivery import generate_form

    pieces: list[str] = []

    def on_progress(event: Event) -> None:
        if isinstance(event, Notice) and pieces:  # not in the middle of the answer's own line
            event = Notice(f"\n{event.text}")
        state.output.on_progress(event)

    for piece in generate_text(
        bundle, prompt, max_new_tokens=max_tokens, use_template=not raw, on_progress=on_progress
    ):
        pieces.append(piece)
        state.output.stream(piece)  # the answer appears as it is made
    state.output.stream("\n")
    state.output.result(generate_form("".join(pieces)).data(), "")
