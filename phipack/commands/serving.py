"""`serve`: a published catalog over HTTP."""

from __future__ import annotations

import click

from phipack.options import State, pass_state


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0: a free one.")
@click.option("--log", is_flag=True, help="Write a line for each request to standard error.")
@pass_state
def serve(state: State, host: str, port: int, log: bool) -> None:
    """Serve the catalog that is published in the store, until Ctrl-C.

    For phones instead of a CDN: blobs and documents, with ranges and caching headers; which bundle a device should
    have (/resolve); described at /docs. If the store is on S3, requests for blobs are redirected to presigned URLs. Put
    a proxy with HTTPS in front of it.
    """
    from phipack.api.serving import serve_catalog
    from registry.store.uris import open_store

    blobs = open_store(state.store)
    serve_catalog(
        blobs,
        host=host,
        port=port,
        log_requests=log,
        on_listening=lambda url: state.output.note(f"{blobs.uri} at {url}"),
    )
