"""`serve`: a published catalog over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from phipack.commands.opening import open_project_registry
from phipack.options import State, pass_state, refuse_unread

if TYPE_CHECKING:
    from phipack.api.serving import ServedPages


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0: a free one.")
@click.option(
    "--pages-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve pages about the registry and the catalog, too, on this port of their own. 0: a free one.",
)
@click.option(
    "--pages-host",
    default="127.0.0.1",
    show_default=True,
    metavar="HOST",
    help="Address of the pages. They have no login, and show names, reasons and what is not published.",
)
@click.option("--log", is_flag=True, help="Write a line for each request to standard error.")
@pass_state
def serve(state: State, host: str, port: int, pages_port: int | None, pages_host: str, log: bool) -> None:
    """Serve the catalog that is published in the store, until Ctrl-C.

    For phones instead of a CDN: blobs and documents, with ranges and caching headers; which bundle a device should
    have (/resolve); described at /docs. If the store is on S3, requests for blobs are redirected to presigned URLs. Put
    a proxy with HTTPS in front of it.

    For people, with --pages-port: models, channels, releases, evidence, reports and history of the registry next to
    what is published, on another port, for this machine alone unless --pages-host says otherwise.
    """
    from phipack.api.serving import serve_catalog
    from registry.store.uris import open_store

    if pages_port is None:
        refuse_unread("without --pages-port no pages are served", "pages_host")
    blobs = open_store(state.store)
    serve_catalog(
        blobs,
        host=host,
        port=port,
        log_requests=log,
        on_listening=lambda url: state.output.note(f"{blobs.uri} at {url}"),
        pages=None if pages_port is None else _pages(state, pages_host, pages_port),
    )


def _pages(state: State, host: str, port: int) -> ServedPages:
    from phipack.api.serving import ServedPages, require_web_framework

    require_web_framework()
    from phipack.web.app import create_pages

    app = create_pages(open_project_registry(state), host=host)
    return ServedPages(app, host, port, lambda url: state.output.note(f"pages at {url}"))
