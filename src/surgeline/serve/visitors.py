"""Who may ask: whoever bears the token, and browsers, which cannot, that came by a link which only one could use."""

from __future__ import annotations

import hmac
import secrets
from collections import deque
from collections.abc import Callable
from http import HTTPStatus

from starlette.datastructures import Headers, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, Response

from surgeline.serve.problems import problem

ENTRANCE = "/enter"
_MOST_BROWSERS = 100
# A page of links: in a sandbox, as other answers are, it would be a stranger's, whose links bear no cookie.
LINKS_ONLY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# It is a page, since a browser that is sent on from elsewhere does not show its new cookie there.
_WELCOME = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Surgeline</title>
<p>This browser may read what is served here until the server ends: <a href="/sessions">weblogs</a>, <a href="/">the
API</a>.</p></html>
"""


class Visitors:
    """Those who may ask."""

    def __init__(self, token: str | None = None, link_used: Callable[[], None] = lambda: None) -> None:
        """Name the token; None: everybody may ask.

        Args:
            token: what a request bears.
            link_used: called when a browser came by the link, so that there is another one.
        """
        self.everybody = not token
        self._token = (token or "").encode()
        self._link_used = link_used
        # Another server's on this machine, at another port, would be sent to this one, too.
        self._name = f"surgeline-{secrets.token_hex(4)}"
        self._browsers: deque[bytes] = deque(maxlen=_MOST_BROWSERS)
        self._key = secrets.token_urlsafe(32)

    @property
    def link(self) -> str:
        """The path by which the next browser may come, once."""
        return f"{ENTRANCE}?key={self._key}"

    def enter(self, asked: QueryParams) -> Response:
        """Let a browser in that came by the link."""
        given = asked.get("key", "").encode()
        if not hmac.compare_digest(given, self._key.encode()):
            return problem(HTTPStatus.FORBIDDEN, "this link was used", "the server has told another since")
        self._key = secrets.token_urlsafe(32)
        cookie = secrets.token_urlsafe(32)
        self._browsers.append(cookie.encode())
        answer = HTMLResponse(_WELCOME, headers={"content-security-policy": LINKS_ONLY})
        answer.set_cookie(self._name, cookie, httponly=True, samesite="strict")
        self._link_used()
        return answer

    def know(self, headers: Headers) -> bool:
        """Whether a request may be answered."""
        if self.everybody:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Header values were decoded as Latin-1.
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._token):
            return True
        cookie = cookie_parser(headers.get("cookie", "")).get(self._name, "").encode("latin-1")
        return any(hmac.compare_digest(cookie, browser) for browser in self._browsers)
