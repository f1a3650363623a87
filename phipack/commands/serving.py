"""`serve`: a published catalog over HTTP."""

from __future__ import annotations

import copy
import socket

import click

from phipack.options import State, pass_state, store_option
from targets.errors import PublicationError
from targets.installation import install_command


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0: one that is free.")
@click.option("--log", is_flag=True, help="A line for each request, on standard error.")
@store_option
@pass_state
def serve(state: State, host: str, port: int, log: bool, store: str | None) -> None:
    """Serve the catalog that is published in the store, until Ctrl-C.

    For phones in place of a CDN: what TUF and digests hold, by ranges and with caching headers; which bundle a device
    is to have (/resolve); described at /docs. Where the store is on S3, blobs are redirected to presigned URLs. Put a
    proxy with HTTPS before it.
    """
    try:
        import uvicorn

        from registry.catalog.http_service import create_app
    except ImportError as error:
        raise PublicationError("serving needs FastAPI and uvicorn", fix=install_command("serve")) from error
    from registry.catalog.served_catalog import ServedCatalog
    from registry.store.uris import open_store

    blobs = open_store(store)
    ServedCatalog(blobs).documents()  # says now what is wrong with it
    listener = _listening(host, port)
    state.output.note(f"{blobs.uri} at http://{host}:{listener.getsockname()[1]}")
    logging = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    logging["handlers"]["access"]["stream"] = "ext://sys.stderr"
    level = "info" if log else "warning"
    config = uvicorn.Config(create_app(blobs), log_config=logging, log_level=level, server_header=False, lifespan="off")
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise PublicationError(
            f"{host}:{port} can't be listened on: {error.strerror or error}", fix="name another --host or --port"
        ) from error
