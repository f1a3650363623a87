"""A published catalog over HTTP. Needs `phipack[serve]`."""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable

from phipack.api.arguments import AnyPath, as_store
from registry.catalog.served_catalog import ServedCatalog
from registry.store.protocol import Store
from registry.transfer.http_address import host_and_port
from targets.errors import PublicationError
from targets.installation import install_command


def serve_catalog(
    store: AnyPath | Store,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    log_requests: bool = False,
    on_listening: Callable[[str], None] | None = None,
) -> None:
    """Serve the catalog that is published in a store, until the process is interrupted.

    Args:
        store: a folder or `s3://BUCKET/PREFIX`.
        host: the address to listen on.
        port: 0 for a free one.
        log_requests: write a line for each request to standard error.
        on_listening: called with the URL when requests are accepted.

    Raises:
        PublicationError: FastAPI is not installed, the address can't be used, or the catalog is damaged.
    """
    try:
        import uvicorn

        from registry.catalog.http_service import create_app
    except ImportError as error:
        raise PublicationError("serving needs FastAPI and uvicorn", fix=install_command("serve")) from error
    blobs = as_store(store)
    ServedCatalog(blobs).documents()  # reports now what is wrong with it
    host = host.removeprefix("[").removesuffix("]")
    listener = _listening(host, port)
    logging = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    logging["handlers"]["access"]["stream"] = "ext://sys.stderr"
    level = "info" if log_requests else "warning"
    config = uvicorn.Config(create_app(blobs), log_config=logging, log_level=level, server_header=False, lifespan="off")
    with listener:
        if on_listening is not None:
            on_listening(f"http://{host_and_port(host, listener.getsockname()[1])}")
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, UnicodeError, OverflowError) as error:  # UnicodeError: no name of a host
        reason = getattr(error, "strerror", None) or error
        raise PublicationError(
            f"can't listen on {host_and_port(host, port)}: {reason}",
            fix="choose another --host or --port",
        ) from error
