"""The route of the feed of events."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from surgeline.serve.events import Position, feed
from surgeline.serve.parameters import Asked, EventId, FeedStart
from surgeline.serve.problems import Refused

# Each asks its store a few times a second.
_MOST_FEEDS = 50
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events: attempt, commit, stage, session, and unreadable, each with JSON as its data.",
        "content": {"text/event-stream": {}},
    }
}

router = APIRouter()


@router.get("/sessions/{session}/events", response_class=StreamingResponse, responses=_ANSWERS)
async def events(
    request: Request,
    session: Asked,
    asked: Annotated[FeedStart, Query()],
    last_event_id: Annotated[EventId, Header()] = "",
) -> Response:
    """What happens in a session, in order within each kind of event; a client that comes back misses nothing."""
    state = request.app.state
    if state.feeds >= _MOST_FEEDS:
        raise Refused(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"{_MOST_FEEDS} clients follow sessions already",
            "ask again later, or with follow=false",
            {"retry-after": "30"},
        )
    position = Position.parse(last_event_id or asked.last_event_id)
    return _FeedResponse(
        feed(session, position, asked.follow, state.ending),
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        media_type="text/event-stream",
    )


class _FeedResponse(StreamingResponse):
    """Counts itself among the feeds for as long as it is sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["app"].state
        state.feeds += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            state.feeds -= 1
