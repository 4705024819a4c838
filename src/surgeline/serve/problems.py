"""Errors as problem details (RFC 9457): what happened and the way out, never how the server came to it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from surgeline.serve.models import Problem
from surgeline.serve.reading import NotThere, Unreadable

MEDIA_TYPE = "application/problem+json"
_DESCRIBED = "/api/v1/openapi.json describes what can be asked"


class Refused(Exception):
    """A request that is answered with a problem."""

    def __init__(
        self, status: HTTPStatus, detail: str, way_out: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.way_out = way_out
        self.headers = headers


def problem(status: HTTPStatus, detail: str, way_out: str = "", headers: Mapping[str, str] | None = None) -> Response:
    """The answer that tells a problem."""
    content = Problem(title=status.phrase, status=status, detail=detail, way_out=way_out)
    return Response(content.model_dump_json(), status, headers, MEDIA_TYPE)


def tell_problems(app: FastAPI) -> None:
    """Let every error of an application be told as a problem."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return problem(error.status, error.detail, error.way_out, error.headers)

    @app.exception_handler(NotThere)
    async def not_there(_: Request, error: NotThere) -> Response:
        return problem(HTTPStatus.NOT_FOUND, error.message, error.way_out)

    @app.exception_handler(Unreadable)
    async def unreadable(_: Request, error: Unreadable) -> Response:
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, error.message, error.way_out)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        told = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors())
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, told, _DESCRIBED)

    @app.exception_handler(HTTPException)
    async def framework(_: Request, error: HTTPException) -> Response:
        return problem(HTTPStatus(error.status_code), error.detail, _DESCRIBED, error.headers)
