"""The API's own description (OpenAPI), in which every problem has its place."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from surgeline.serve.models import Problem
from surgeline.serve.problems import MEDIA_TYPE

_TEMPLATE = "#/components/schemas/{model}"
_ANYWHERE = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.MISDIRECTED_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


def description(app: FastAPI, with_token: bool) -> dict[str, Any]:
    """The OpenAPI document of an application.

    Args:
        app: the application.
        with_token: whether requests have to bear a token.
    """
    content = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = content["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas[Problem.__name__] = Problem.model_json_schema(ref_template=_TEMPLATE)
    problem = {MEDIA_TYPE: {"schema": {"$ref": _TEMPLATE.format(model=Problem.__name__)}}}
    for path in content["paths"].values():
        for operation in path.values():
            answers = operation["responses"]
            for status in _ANYWHERE:
                answers.setdefault(str(status.value), {"description": status.phrase})
            for status, answer in answers.items():
                if int(status) >= HTTPStatus.BAD_REQUEST:
                    answer["content"] = problem
    if with_token:
        content["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        content["security"] = [{"token": []}]
    return content
