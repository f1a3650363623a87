"""A published catalog over HTTP. Needs `phipack[serve]`."""

from __future__ import annotations

import copy
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from phipack.api.arguments import AnyPath, as_store
from registry.catalog.published_state import read_published
from registry.catalog.served_catalog import ServedCatalog
from registry.store.protocol import Store
from registry.transfer.http_address import host_and_port
from targets.errors import PublicationError
from targets.installation import install_command

if TYPE_CHECKING:
    import uvicorn

_LAST_ANSWERS_SECONDS = 2.0  # that pages have to end


@dataclass(frozen=True)
class ServedPages:
    """Pages for people on an address of their own: `phipack.web.app.create_pages` makes `app`.

    `on_listening`: called with the URL when requests are accepted.
    """

    app: Callable[..., Any]
    host: str = "127.0.0.1"
    port: int = 8081
    on_listening: Callable[[str], None] | None = None


def serve_catalog(
    store: AnyPath | Store,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    log_requests: bool = False,
    on_listening: Callable[[str], None] | None = None,
    pages: ServedPages | None = None,
) -> None:
    """Serve the catalog that is published in a store, until the process is interrupted.

    Pages have a port, an event loop and threads of their own: what they wait for makes no phone wait.

    Args:
        store: a folder or `s3://BUCKET/PREFIX`.
        host: the address to listen on.
        port: 0 for a free one.
        log_requests: write a line for each request to standard error.
        on_listening: called with the URL when requests are accepted.
        pages: pages that are served, too. With them, a store where nothing is published yet is served as well.

    Raises:
        PublicationError: FastAPI is not installed, the address can't be used, or the catalog is damaged.
    """
    require_web_framework()
    from registry.catalog.http_service import create_app

    blobs = as_store(store)
    if pages is None or read_published(blobs, None).tag is not None:
        ServedCatalog(blobs).documents()  # reports now what is wrong with it
    level = "info" if log_requests else "warning"
    with ExitStack() as stack:
        listener = stack.enter_context(_listening(host, port))
        there = None if pages is None else stack.enter_context(_listening(pages.host, pages.port))
        _announce(on_listening, host, listener)
        if pages is not None and there is not None:
            _announce(pages.on_listening, pages.host, there)  # before its thread logs that it starts
            stack.enter_context(_running(_server(pages.app, level, lifespan="on"), there))
        _server(create_app(blobs), level, lifespan="off").run(sockets=[listener])


def require_web_framework() -> None:
    """Raise `PublicationError` where FastAPI or uvicorn is not installed."""
    try:
        import fastapi  # noqa: F401 - what is looked for
        import uvicorn  # noqa: F401 - as above
    except ImportError as error:
        raise PublicationError("serving needs FastAPI and uvicorn", fix=install_command("serve")) from error


def _server(app: Any, level: str, *, lifespan: Literal["on", "off"]) -> uvicorn.Server:
    import uvicorn

    logging = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    logging["handlers"]["access"]["stream"] = "ext://sys.stderr"
    config = uvicorn.Config(app, log_config=logging, log_level=level, server_header=False, lifespan=lifespan)
    return uvicorn.Server(config)


@contextmanager
def _running(server: uvicorn.Server, listener: socket.socket) -> Iterator[None]:
    """Run a server in a thread until the block ends."""
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="pages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(_LAST_ANSWERS_SECONDS)


def _announce(on_listening: Callable[[str], None] | None, host: str, listener: socket.socket) -> None:
    if on_listening is not None:
        on_listening(f"http://{host_and_port(_plain(host), listener.getsockname()[1])}")


def _plain(host: str) -> str:
    return host.removeprefix("[").removesuffix("]")


def _listening(host: str, port: int) -> socket.socket:
    host = _plain(host)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, UnicodeError, OverflowError) as error:  # UnicodeError: no name of a host
        reason = getattr(error, "strerror", None) or error
        raise PublicationError(
            f"can't listen on {host_and_port(host, port)}: {reason}",
            fix="choose another --host or --port; for the pages, --pages-host or --pages-port",
        ) from error
