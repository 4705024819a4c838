"""The routes of products: what there is, and what is in it."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request
from sqlalchemy import Connection
from starlette.responses import Response

from surgeline.context.records import Product, from_stored, name_of
from surgeline.serve.models import Fact, Page, ProductFile
from surgeline.serve.paging import part_of
from surgeline.serve.parameters import Asked, ProductFilter
from surgeline.serve.problems import Refused
from surgeline.serve.products import product_response
from surgeline.serve.queries import checked_version, facts_at, facts_that_name, newest_version

# Bytes of any form: JSON too, where the file is JSON.
_FILE: dict[str, Any] = {"*/*": {}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file.", "content": _FILE},
    206: {"description": "The part that was asked for.", "content": _FILE},
    304: {"description": "The client has it already."},
    403: {"description": "It leads out of the working folder."},
    409: {"description": "It is not what was recorded."},
    416: {"description": "The file ends before the part that was asked for."},
}

router = APIRouter()


@router.get("/sessions/{session}/products")
def products(request: Request, session: Asked, asked: Annotated[ProductFilter, Query()]) -> Page[ProductFile]:
    """The files that a session made for people."""

    def ask(connection: Connection, context: str) -> tuple[int, list[tuple[int, ProductFile]]]:
        version = checked_version(connection, context, asked.version)
        kind = name_of(Product)
        found = facts_at(connection, context, version, asked.cursor, asked.limit + 1, kind=kind)
        return version, [(fact.id, _product(fact)) for fact in found]

    version, found = session.read(ask)
    part, following = part_of(request, found, asked.limit, lambda numbered: numbered[0], version=version)
    return Page(items=[product for _, product in part], next=following)


@router.get("/sessions/{session}/products/{path:path}", response_class=Response, responses=_ANSWERS)
def product(request: Request, session: Asked, path: str) -> Response:
    """A product's content, whole or a range of it; its tag is its SHA-256."""

    def ask(connection: Connection, context: str) -> ProductFile | None:
        version = newest_version(connection, context)
        found = facts_at(connection, context, version, 0, 1, kind=name_of(Product), subject=json.dumps([path]))
        return _product(found[0]) if found else None

    found = session.read(ask)
    if found is None:
        raise Refused(HTTPStatus.NOT_FOUND, f"the session has no product {path}", "its products are listed")
    if session.folder is None:
        raise Refused(
            HTTPStatus.NOT_FOUND,
            f"where {path} is, is not known here: only the context's database is served",
            "serve the working folder",
        )
    return product_response(request, session.folder, found)


@router.get("/sessions/{session}/artifacts/{sha256}", response_class=Response, responses=_ANSWERS)
def artifact(request: Request, session: Asked, sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")]) -> Response:
    """The content of a product by its SHA-256, wherever it is: also of one that has been replaced since."""

    def ask(connection: Connection, context: str) -> list[ProductFile]:
        version, kind = newest_version(connection, context), name_of(Product)
        places = []
        for made in map(_product, facts_that_name(connection, context, kind, sha256)):
            subject = json.dumps([made.path])
            holding = facts_at(connection, context, version, 0, 1, kind=kind, subject=subject)
            if made.sha256 == sha256:
                replaced = made.model_copy(update={"path": f"replaced/{made.version}/{made.path}"})
                places += [replaced, *(now for now in map(_product, holding) if now.sha256 == sha256)]
        return places

    places = session.read(ask)
    there = [place for place in places if session.folder is not None and (session.folder / place.path).is_file()]
    if session.folder is None or not there:
        raise Refused(HTTPStatus.NOT_FOUND, f"no product of this session has the SHA-256 {sha256}", "list them")
    return product_response(request, session.folder, there[0])


def _product(fact: Fact) -> ProductFile:
    found = from_stored(Product, fact.schema_version, json.dumps(fact.body))
    return ProductFile(
        **found.model_dump(),
        version=fact.version,
        stage=fact.stage,
        content=f"products/{quote(found.path)}",
    )
