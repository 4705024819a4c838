"""The application: sessions over HTTP, to be read only."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.responses import HTMLResponse

import surgeline
from surgeline.serve import eventroutes, productroutes, routes, weblogroutes
from surgeline.serve.description import description
from surgeline.serve.guard import Guard
from surgeline.serve.problems import tell_problems
from surgeline.serve.sources import Sources
from surgeline.serve.visitors import LINKS_ONLY, Visitors

PREFIX = "/api/v1"
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_INDEX = Path(__file__).parent / "index.html"


def make_app(
    sources: Iterable[str | Path],
    visitors: Visitors | None = None,
    hosts: Collection[str] | None = LOOPBACK_HOSTS,
) -> FastAPI:
    """Make the application; it does nothing until it is asked.

    Args:
        sources: working folders, and URLs of databases that hold contexts; they may come to be later.
        visitors: who may ask; None: everybody who reaches it.
        hosts: the names by which it may be asked; None: any, which is safe only where not everybody may ask.

    Raises:
        BadInput: a URL is none.
    """
    app = FastAPI(
        title="Surgeline",
        version=surgeline.__version__,
        description="What sessions do, know and made.",
        openapi_url=f"{PREFIX}/openapi.json",
        # These pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_name_of,
    )
    app.state.sources = Sources(sources)
    app.state.feeds = 0
    app.state.ending = lambda: False
    for part in (routes, productroutes, eventroutes):
        app.include_router(part.router, prefix=PREFIX)
    app.include_router(weblogroutes.router)
    visitors = visitors or Visitors()
    content = description(app, not visitors.everybody)
    app.openapi = lambda: content  # type: ignore[method-assign]  # as FastAPI has it
    tell_problems(app)
    app.add_middleware(Guard, visitors=visitors, hosts=hosts)
    page = _INDEX.read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"content-security-policy": LINKS_ONLY})

    return app


def _name_of(route: APIRoute) -> str:
    return route.name
