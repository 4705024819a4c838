"""The weblogs of sessions, with the pictures, products and logs that their pages link to."""

from __future__ import annotations

from html import escape
from http import HTTPStatus
from pathlib import PurePosixPath
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from surgeline.serve.parameters import Asked
from surgeline.serve.problems import Refused
from surgeline.serve.products import disposition, media_type, whole_file
from surgeline.serve.sources import Sources
from surgeline.serve.visitors import LINKS_ONLY

# What browsers may make of the files of a weblog; all else they may only save.
_SHOWN = {
    "weblog": {
        ".css": "text/css; charset=utf-8",
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".png": "image/png",
        ".py": "text/plain; charset=utf-8",
    },
    "pictures": {".png": "image/png"},
    "logs": {".err": "text/plain", ".log": "text/plain", ".out": "text/plain"},
    "products": {},
}
# Pages run their own scripts and show their own pictures, and nothing else.
_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; style-src-attr 'unsafe-inline'; script-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

router = APIRouter(include_in_schema=False)


@router.get("/sessions")
def weblogs(request: Request) -> HTMLResponse:
    """All sessions that have a weblog, as a page of links."""
    sources: Sources = request.app.state.sources
    found, _ = sources.sessions()
    links = "".join(
        f'<li><a href="sessions/{quote(session.id)}/weblog/index.html">{escape(session.name)}</a></li>'
        for session in found
        if session.folder is not None and (session.folder / "weblog" / "index.html").is_file()
    )
    title = "<title>Weblogs</title><h1>Weblogs</h1>"
    body = f"<ul>{links}</ul>" if links else "<p>No session has a weblog yet.</p>"
    page = f'<!doctype html><html lang="en"><meta charset="utf-8">{title}{body}'
    return HTMLResponse(page, headers={"content-security-policy": LINKS_ONLY})


@router.get("/sessions/{session}/weblog")
@router.get("/sessions/{session}/weblog/")
def first_page(session: Asked) -> RedirectResponse:
    """Home of a session's weblog."""
    return RedirectResponse(f"/sessions/{quote(session.id)}/weblog/index.html")


@router.get("/sessions/{session}/{part}/{path:path}")
def weblog_file(session: Asked, part: str, path: str) -> Response:
    """A page, or a file that a page links to."""
    if part not in _SHOWN or session.folder is None:
        raise Refused(HTTPStatus.NOT_FOUND, f"there is nothing at {part}/{path}", "/sessions lists weblogs")
    name = PurePosixPath(path)
    kind = _SHOWN[part].get(name.suffix.lower())
    if kind is None and part == "logs":
        # What else is there is not for people: certificates of workers, notes.
        raise Refused(HTTPStatus.FORBIDDEN, f"{path} is no log", "/sessions lists weblogs")
    headers = {"content-type": kind or media_type(path)}
    if kind is None:
        headers["content-disposition"] = disposition(name.name)
    elif part == "weblog":
        headers["content-security-policy"] = _POLICY
    # A part may be a link to elsewhere in the folder, never the path a way to another part.
    if ".." in name.parts:
        raise Refused(HTTPStatus.FORBIDDEN, f"{path} leads out of {part}")
    return whole_file(session.folder, f"{part}/{path}", headers)
