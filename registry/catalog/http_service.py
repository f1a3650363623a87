"""`phipack serve`: the catalog in a store, over HTTP. The only module that knows the web framework.

    GET /metadata/…, /targets/…      as from any static server, with caching headers and ETags
    GET /blobs/sha256/ab/HEX         by ranges; on S3 a redirect to a URL that is valid for an hour
    GET /resolve?device=…            which bundle a device gets, and why
    GET /health, /openapi.json, /docs

Answers of `/resolve` are not signed: a client that does not trust the server reads the signed documents, as `phipack
fetch` does. For HTTPS, put a proxy in front.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from registry.catalog.choice import Query as Wanted
from registry.catalog.choice import resolve
from registry.catalog.documents import CellEntry
from registry.catalog.served_catalog import ServedCatalog
from registry.files.digests import digest_of_bytes
from registry.store.folder import FolderStore
from registry.store.protocol import Store, blob_path, caching_of, media_type_of
from registry.store.s3 import S3Store
from targets.errors import (
    MalformedReferenceError,
    PhipackError,
    PublicationError,
    StoreError,
    TargetError,
    did_you_mean,
)
from targets.recipes import Format
from targets.references import Reference
from targets.runtimes import Offer
from targets.selection import URL_PARAMETERS, Device
from targets.strict_json import LARGEST_INTEGER

REDIRECT_SECONDS = 3600
_HEX = r"^[0-9a-f]{64}$"
_METADATA = r"^(timestamp|[1-9][0-9]{0,9}\.(root|snapshot|targets))\.json$"
# No longer than a file's name may be, no part of it `..` or hidden.
_DOCUMENT = r"^[a-z0-9][a-z0-9._-]{0,199}/(channels|releases)/[0-9a-f]{64}\.[A-Za-z0-9][A-Za-z0-9.-]{0,184}\.json$"


class Problem(BaseModel):
    """What went wrong, and how to fix it."""

    problem: str = Field(examples=["the catalog has no model 'phy'"])
    fix: str | None = Field(examples=["did you mean 'phi-3-mini-4k-instruct'?"])


class Answer(BaseModel):
    """The bundle for a device. `manifest`: the path of its manifest on this server."""

    reference: str = Field(examples=["phi-3-mini-4k-instruct:1.4.0@iphone-15"])
    model: str
    release: str
    cell: str
    reasons: list[str] = Field(examples=[["production is at 1.4.0", "iPhone15,4 is a device of iphone-15"]])
    manifest: str = Field(examples=["/blobs/sha256/ab/ab34…"])
    entry: CellEntry


class _Blob(FileResponse):
    chunk_size = 1 << 20  # each piece costs a turn of the event loop


def _wanted(  # noqa: PLR0913 - the query's own
    *,
    reference: Annotated[
        str | None,
        Query(
            max_length=500,
            description="MODEL[:VERSION|:CHANNEL|:^RANGE][@CELL]; by default the only model's production channel",
        ),
    ] = None,
    device: Annotated[str | None, Query(max_length=200, description="identifier, such as iPhone15,4")] = None,
    soc: Annotated[str | None, Query(max_length=200, description="such as Apple A16")] = None,
    ram_bytes: Annotated[int | None, Query(gt=0, le=LARGEST_INTEGER, description="memory as the OS reports it")] = None,
    os: Annotated[str | None, Query(max_length=200, description="name and version, such as iOS 18.1")] = None,
    format: Annotated[Format | None, Query(description="what the app's runtime can read")] = None,  # noqa: A002
    install_id: Annotated[str | None, Query(max_length=200, description="for staged rollout")] = None,
    runtime: Annotated[
        list[str] | None,
        Query(max_length=20, description="a runtime that the app ships, such as onnxruntime=1.22.0; repeated for all"),
    ] = None,
) -> Wanted:
    name, _, version = (os or "").partition(" ")
    return Wanted(
        None if reference is None else Reference.parse(reference),
        Device(device, soc, ram_bytes, name or None, version or None),
        format,
        install_id,
        Offer.parse(runtime or ()),
        URL_PARAMETERS,
    )


_ASKED = frozenset(inspect.signature(_wanted).parameters)
_SEVERAL = "runtime"  # the only parameter that may be repeated


def _require_known(request: Request) -> None:
    """Refuse a parameter that is misspelt or repeated: left unread, another bundle would be the answer."""
    asked = request.query_params
    for name in asked:
        if name not in _ASKED:
            raise TargetError(f"/resolve has no parameter {name!r}", fix=did_you_mean(name, _ASKED))
        if name != _SEVERAL and len(asked.getlist(name)) > 1:
            raise TargetError(f"parameter {name} is given twice", fix=f"keep one {name}=")


def create_app(store: Store) -> FastAPI:
    """Return the ASGI application that serves the catalog in `store`."""
    catalog = ServedCatalog(store)
    app = FastAPI(
        title="phipack",
        version="1",
        summary="A signed catalog of Phi-3 bundles for phones.",
        description="The wire format is described in phipack's docs/delivery.md. `/resolve` is a convenience: its "
        "answer is not signed; everything else is covered by TUF's signatures and by digests.",
        redirect_slashes=False,  # it would send clients to whatever host they named in `Host`
    )

    _answer_errors(app)
    _get(app, "/metadata/{name}", _metadata(store), "TUF metadata", {404: "no such metadata"})
    _get(app, "/targets/{path:path}", _targets(store), "A channel's or release's document", {404: "no such document"})
    _get(app, "/blobs/sha256/{folder}/{name}", _blob(store, catalog), "A manifest, a bundle's file or a delta", _RANGES)

    _answer_queries(app, catalog)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Answer with problem and fix, whatever goes wrong."""

    @app.exception_handler(PhipackError)
    def failed(_: Request, error: PhipackError) -> JSONResponse:
        return _problem(error.problem, _fix_for_caller(error), _status_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        one = error.errors()[0]
        if one["loc"][0] == "path":
            return _problem("no such path", _PATHS, 404)
        name = str(one["loc"][1])
        return _problem(f"{name}: {one['msg']}", f"correct {name}=: /docs says what it may be", 422)

    @app.exception_handler(HTTPException)
    async def no_route(_: Request, error: HTTPException) -> Response:
        return _problem(str(error.detail), _PATHS, error.status_code, error.headers)


_PATHS = "see /openapi.json for the paths and methods that there are"


def _problem(problem: str, fix: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    content = Problem(problem=problem, fix=fix).model_dump()
    return JSONResponse(content, status, headers={**(headers or {}), "Cache-Control": "no-store"})


def _fix_for_caller(error: PhipackError) -> str:
    """Return what whoever asks over HTTP can do: commands for the store are its publisher's."""
    if _status_of(error) == 503:
        return "try again later; if the error stays, report it to whoever runs this server"
    return error.fix


def _answer_queries(app: FastAPI, catalog: ServedCatalog) -> None:
    """Answer what a static server can't: which bundle a device gets, and whether there is a catalog."""

    @app.get(
        "/resolve",
        summary="Which bundle a device gets, and why",
        dependencies=[Depends(_require_known)],
        responses={status: {"model": Problem} for status in (400, 404, 422, 503)},
    )
    def _resolve(
        wanted: Annotated[Wanted, Depends(_wanted)],
    ) -> Answer:
        found = resolve(catalog.documents(), wanted)
        return Answer(
            reference=found.reference,
            model=found.model,
            release=found.release,
            cell=found.cell,
            reasons=list(found.reasons),
            manifest="/" + blob_path(found.entry.bundle),
            entry=found.entry,
        )

    @app.get("/health", summary="Whether there is a catalog to serve", responses={503: {"model": Problem}})
    def _health() -> dict[str, int]:
        documents = catalog.documents()
        return {"documents": len(documents.paths), "timestamp": documents.timestamp_version}


_RANGES = {
    206: "the requested range",
    304: "the client has it already",
    307: "the URL of the bytes",
    404: "not part of a published release",
    416: "no such range",
}


def _get(app: FastAPI, path: str, answer: Callable[..., Response], summary: str, statuses: dict[int, str]) -> None:
    """Answer GET; and HEAD, which the API description leaves out."""
    responses = {status: {"description": text} for status, text in statuses.items()}
    app.get(path, summary=summary, response_class=Response, responses=responses)(answer)  # type: ignore[arg-type]
    app.head(path, include_in_schema=False)(answer)


def _metadata(store: Store) -> Callable[..., Response]:
    def metadata(
        name: Annotated[str, Path(pattern=_METADATA)],
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        return _document(store, f"metadata/{name}", if_none_match)

    return metadata


def _targets(store: Store) -> Callable[..., Response]:
    def document(
        path: Annotated[str, Path(pattern=_DOCUMENT)],
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        return _document(store, f"targets/{path}", if_none_match)

    return document


def _blob(store: Store, catalog: ServedCatalog) -> Callable[..., Response]:
    def blob(
        folder: Annotated[str, Path(pattern=r"^[0-9a-f]{2}$")],
        name: Annotated[str, Path(pattern=_HEX)],
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        digest = f"sha256:{name}"
        if folder != name[:2] or not catalog.publishes(digest):
            raise _NotFoundError(
                f"no published release has blob {digest}", fix="request the blobs that its manifests list"
            )
        headers = {"ETag": f'"{name}"', "Cache-Control": caching_of(blob_path(digest))}
        if _has(if_none_match, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        if isinstance(store, S3Store):
            url = store.presigned_url(digest, REDIRECT_SECONDS)
            return RedirectResponse(url, 307, headers={"Cache-Control": f"private, max-age={REDIRECT_SECONDS // 2}"})
        assert isinstance(store, FolderStore)
        if store.blob_bytes(digest) is None:
            raise StoreError(
                f"blob {digest} of the catalog is missing from its store", fix="publish it again: phipack publish MODEL"
            )
        return _Blob(store.location_of(digest), headers=headers, media_type=media_type_of(blob_path(digest)))

    return blob


def _document(store: Store, name: str, if_none_match: str | None) -> Response:
    found = store.read_document(name)
    if found is None:
        raise _NotFoundError(f"the catalog has no {name}", fix="start at metadata/timestamp.json")
    headers = {"ETag": f'"{digest_of_bytes(found.content)[7:]}"', "Cache-Control": caching_of(name)}
    if _has(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=media_type_of(name))


class _NotFoundError(PhipackError):
    """There is nothing at this path."""


def _has(if_none_match: str | None, tag: str) -> bool:
    asked = [] if if_none_match is None else [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return tag in asked or "*" in asked


def _status_of(error: PhipackError) -> int:
    if isinstance(error, MalformedReferenceError | TargetError):
        return 400
    return 503 if isinstance(error, PublicationError | StoreError) else 404
