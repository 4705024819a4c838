"""Who may ask, how fast, and by which name; and the headers that keep browsers from making more of an answer."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from surgeline.serve.pace import REFUSED, Pace
from surgeline.serve.problems import problem
from surgeline.serve.visitors import ENTRANCE, Visitors

_HEADERS = {
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "sandbox",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]]+)(:\d*)?")

_log = logging.getLogger(__name__)


class _Enough(Exception):
    """Ends the making of an answer of which only the headers are wanted."""


class Guard:
    """Lets only those requests through to an application that may come; to it, HEAD is GET."""

    def __init__(self, app: ASGIApp, visitors: Visitors, hosts: Collection[str] | None) -> None:
        """Guard an application.

        Args:
            app: the application.
            visitors: who may ask.
            hosts: the names by which it may be asked, against DNS rebinding; None: any.
        """
        self._app = app
        self._visitors = visitors
        self._pace = Pace()
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, headers_only = False, scope["method"] == "HEAD"

        async def send_guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    # What pages of a weblog may do they say themselves.
                    headers.setdefault(name, value)
                # What is known changes, and is not for those who share a cache.
                headers.setdefault("cache-control", "no-store")
                if "allow" in headers:
                    headers["allow"] += ", HEAD"
            await send(message)
            if headers_only:
                await send({"type": "http.response.body"})
                raise _Enough

        answer: ASGIApp = self._refused(scope) or self._app
        asked = {**scope, "method": "GET"} if headers_only else scope
        try:
            await answer(asked, receive, send_guarded)
        except _Enough:
            return
        except Exception:
            _log.exception("%s %s could not be answered", scope["method"], scope["path"])
            if begun:
                raise
            failed = problem(
                HTTPStatus.INTERNAL_SERVER_ERROR, "Surgeline itself failed", "its log says where; please report it"
            )
            await failed(scope, receive, send_guarded)

    def _refused(self, scope: Scope) -> Response | None:
        """The answer to one who may not ask, or not so fast; None: he may."""
        client = scope["client"][0] if scope.get("client") else ""
        seconds = self._pace.seconds_to_wait(client)
        if seconds:
            self._pace.count(client, 0)
            headers = {"retry-after": str(math.ceil(seconds))}
            return problem(HTTPStatus.TOO_MANY_REQUESTS, "you ask too fast", "ask again later", headers)
        refusal = self._refusal(Headers(scope=scope), scope)
        told = refusal is not None and refusal.status_code >= HTTPStatus.BAD_REQUEST
        self._pace.count(client, REFUSED if told else 1.0)
        return refusal

    def _refusal(self, headers: Headers, scope: Scope) -> Response | None:
        if self._hosts is not None:
            host = _HOST.fullmatch(headers.get("host", "").lower())
            if host is None or host["name"] not in self._hosts:
                return problem(
                    HTTPStatus.MISDIRECTED_REQUEST,
                    "this server is not called by that name",
                    f"ask it as {' or '.join(sorted(self._hosts))}",
                )
        if int(headers.get("content-length", "0") or 0) or "transfer-encoding" in headers:
            return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "no request has a body here", "send none")
        if not self._visitors.know(headers):
            if scope["path"] == ENTRANCE and scope["method"] == "GET":
                return self._visitors.enter(QueryParams(scope["query_string"]))
            return problem(
                HTTPStatus.UNAUTHORIZED,
                "a token is needed",
                "send the header Authorization: Bearer TOKEN, or come by the link that the server tells",
                {"www-authenticate": "Bearer"},
            )
        return None
