"""The pages' routes, as an ASGI application: GET and HEAD alone, and nothing that a browser could run.

    GET /                                                   all models
    GET /cells?in=…&device=…&speed=…&kl=…&size=…            cells by device and figure
    GET /models/MODEL                                       channels, cells, releases, last moves
    GET /models/MODEL/channels/CHANNEL                      the registry next to what phones get
    GET /models/MODEL/releases/VERSION[/cells/CELL]         evidence
    GET /models/MODEL/releases/VERSION/cells/CELL/report    the report that was kept with it
    GET /models/MODEL/history?channel=…&cell=…              who moved what, when and why
    GET /models/MODEL/moves/ID/cells/CELL/report            the report of what was promoted then
    GET /models/MODEL/prepare?do=…                          a change as the command to copy

A report comes from MLflow, where others may write: it is served in a sandbox, without scripts, forms or an origin.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from phipack.web.cells import Filter
from phipack.web.known import Known, NotFoundError, Page, version_of
from phipack.web.pages import cells_page, channel_page, history_page, model_page, overview
from phipack.web.release_pages import cell_page, prepare_page, release_page
from phipack.web.rendering import load_templates, render, style_sheet
from phipack.web.source import Source
from targets.errors import PhipackError, RegistryUnreachableError, StoreUnreachableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from phipack.api.registry import Registry

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_View = Callable[[Known, Mapping[str, str], Mapping[str, str]], Page]

THREADS = 4  # pages that are made at a time
_TEXT_LIMIT = 2000  # characters of a form's field
_HTML = "text/html; charset=utf-8"
_PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_REPORT_POLICY = "; ".join(
    (
        *("sandbox", "default-src 'none'", "style-src 'unsafe-inline'"),
        *("form-action 'none'", "base-uri 'none'", "frame-ancestors 'none'"),
    )
)
_HEADERS = {
    "Content-Security-Policy": _PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "interest-cohort=()",
    "Cache-Control": "no-store",
}
_ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#0b57a4"/>'
    b'<path d="M8 2v12M4 6a4 3 0 0 0 8 0a4 3 0 0 0-8 0" fill="none" stroke="#fff" stroke-width="1.6"/></svg>'
)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


def create_pages(registry: Registry, *, host: str = "127.0.0.1") -> Guarded:
    """Return the application that shows a registry and the catalog in its store.

    `host`: the address that it will listen on. On a loopback address only this machine's own names are answered: a page
    elsewhere that has its own name resolved to 127.0.0.1 reads nothing here. On others every name is.

    Raises:
        SetupError: Jinja2 is not installed.
    """
    load_templates()
    source = Source(registry, registry.store)
    routes = [Route(path, _shown(source, view)) for path, view in _VIEWS.items()]
    routes += [
        Route(_CELL + "/report", _report(source, _run_of_version)),
        Route("/models/{model}/moves/{move}/cells/{cell}/report", _report(source, _run_of_move)),
        Route("/style.css", lambda _: Response(style_sheet(), media_type="text/css; charset=utf-8")),
        Route("/icon.svg", lambda _: Response(_ICON, media_type="image/svg+xml")),
        Route("/favicon.ico", lambda _: Response(_ICON, media_type="image/svg+xml")),
    ]
    handlers = {HTTPException: _refused, PhipackError: _failed}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=_with_few_threads)
    app.router.redirect_slashes = False  # it would send people to whatever host they named in `Host`
    return Guarded(app, _names(host))


class Guarded:
    """An application whose every answer has the headers that keep a page to itself. `hosts`: names it answers to."""

    def __init__(self, app: Starlette, hosts: frozenset[str] | None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if self._hosts is not None and _host(Headers(scope=scope).get("host", "")) not in self._hosts:
            answer = Response("These pages answer to the names of this machine alone.\n", 421, media_type="text/plain")
            await answer(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)


def _names(host: str) -> frozenset[str] | None:
    """Return the names to answer to on an address; None for all."""
    plain = host.lower().removeprefix("[").removesuffix("]")
    try:
        is_loopback = plain == "localhost" or ipaddress.ip_address(plain).is_loopback
    except ValueError:  # a name
        return None
    return _LOOPBACK | {f"[{plain}]" if ":" in plain else plain} if is_loopback else None


def _host(header: str) -> str:
    """Return the host that a `Host` header names, without its port."""
    name, colon, port = header.rpartition(":")
    return (name if colon and port.isdigit() else header).lower().removesuffix(".")


@asynccontextmanager
async def _with_few_threads(_: Starlette) -> AsyncIterator[None]:
    """Make few pages at a time: this event loop's threads are not those of the phones' answers."""
    import anyio.to_thread

    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    yield


def _shown(source: Source, view: _View) -> Callable[[Request], Response]:
    """Return an endpoint. It is no coroutine: Starlette runs it in a thread."""

    def endpoint(request: Request) -> Response:
        known = Known(source)
        query = {name: value[:_TEXT_LIMIT] for name, value in request.query_params.items()}
        return _answer(known, view(known, request.path_params, query), 200)

    return endpoint


def _answer(known: Known, page: Page, status: int) -> Response:
    content = render(page.template, page=page, frame=known.frame(), **page.content)
    return Response(content, status, media_type=_HTML)


_CELL = "/models/{model}/releases/{release}/cells/{cell}"
_VIEWS: dict[str, _View] = {
    "/": lambda known, _, __: overview(known),
    "/cells": lambda known, _, query: cells_page(known, Filter.of(query)),
    "/models/{model}": lambda known, path, _: model_page(known, path["model"]),
    "/models/{model}/channels/{channel}": lambda known, path, _: channel_page(known, path["model"], path["channel"]),
    "/models/{model}/releases/{release}": lambda known, path, _: release_page(known, path["model"], path["release"]),
    _CELL: lambda known, path, _: cell_page(known, path["model"], path["release"], path["cell"]),
    "/models/{model}/history": lambda known, path, query: history_page(
        known, path["model"], query.get("channel", ""), query.get("cell", "")
    ),
    "/models/{model}/prepare": lambda known, path, query: prepare_page(known, path["model"], query),
}


def _report(source: Source, run_of: Callable[[Source, Mapping[str, str]], str]) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        page = source.report(run_of(source, request.path_params))  # raises where the run keeps none
        return Response(page, media_type=_HTML, headers={"Content-Security-Policy": _REPORT_POLICY})

    return endpoint


def _run_of_version(source: Source, path: Mapping[str, str]) -> str:
    """Return the run of a registered version: no run is opened that nothing registered names."""
    return version_of(Known(source), path["model"], path["release"], path["cell"]).run_id


def _run_of_move(source: Source, path: Mapping[str, str]) -> str:
    moves = source.history(path["model"])
    if moves.problem is not None:
        raise moves.problem
    for move in moves.value or ():
        for part in move.cells if move.id == path["move"] else ():
            if part.cell == path["cell"] and part.run_id:
                return part.run_id
    raise NotFoundError(
        "the history has no such move of this cell, or names no report with it", fix=f"see {path['model']}'s history"
    )


def _failed(request: Request, error: Exception) -> Response:
    """Answer with what went wrong and how to fix it, as a page."""
    assert isinstance(error, PhipackError)
    away = isinstance(error, RegistryUnreachableError | StoreUnreachableError)
    return _problem(request, error, 503 if away else 404)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _problem(request, NotFoundError("there is no such page", fix="start at the models"), 404)
    found = PhipackError(error.detail, fix="these pages are only read: GET or HEAD")
    answer = _problem(request, found, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


def _problem(_: Request, error: PhipackError, status: int) -> Response:
    page = Page("problem", "Not found" if status == 404 else "Not possible now", {"problem": error, "status": status})
    return Response(render(page.template, page=page, frame=None, **page.content), status, media_type=_HTML)
